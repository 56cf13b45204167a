/**
 * What the trip saga and its participants agree on: three bookings that can each be taken back, one
 * capture of the price that can't, and the itinerary.
 */
import { z } from 'zod';
import { command } from '../../engine/core/index.ts';

const none = z.strictObject({});
const booking = z.object({ bookingId: z.string() });

// ---------------------------------------------------------------- airline

export const bookFlight = command('airline.book-flight', {
  input: z.object({ tripId: z.string(), flight: z.string(), traveller: z.string() }),
  output: booking.extend({ seat: z.string() }),
  rejections: { FlightFull: z.object({ flight: z.string() }) },
});
export const cancelFlight = command('airline.cancel-flight', { input: booking, output: none });

// ---------------------------------------------------------------- hotels

export const bookHotel = command('hotels.book-room', {
  input: z.object({
    tripId: z.string(),
    hotel: z.string(),
    nights: z.int().positive(),
    traveller: z.string(),
  }),
  output: booking,
  rejections: { NoVacancy: z.object({ hotel: z.string() }) },
});
export const cancelHotel = command('hotels.cancel-room', { input: booking, output: none });

// ---------------------------------------------------------------- cars

export const rentCar = command('cars.rent-car', {
  input: z.object({
    tripId: z.string(),
    city: z.string(),
    carClass: z.string(),
    days: z.int().positive(),
  }),
  output: booking,
  rejections: { NoCarAvailable: z.object({ city: z.string(), carClass: z.string() }) },
});
export const returnCar = command('cars.cancel-rental', { input: booking, output: none });

// ---------------------------------------------------------------- payments, notifications

export const captureTrip = command('payments.capture-trip', {
  input: z.object({ tripId: z.string(), card: z.string(), amountCents: z.int().positive() }),
  output: z.object({ paymentId: z.string() }),
  rejections: { CardDeclined: z.object({ declineCode: z.string() }) },
});

export const sendItinerary = command('notifications.send-itinerary', {
  input: z.object({
    tripId: z.string(),
    email: z.email(),
    flightBooking: z.string(),
    hotelBooking: z.string(),
    carBooking: z.string().nullable(),
    paymentId: z.string(),
  }),
  output: z.object({ messageId: z.string() }),
});
