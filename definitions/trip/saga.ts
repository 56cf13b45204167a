/**
 * The trip saga: flight, hotel and car at the same time, then the money, then the itinerary.
 *
 * Guards that a traveller gets the whole trip or none of it. Each booking is a parallel region; the
 * first one that fails takes the saga out of all of them, and what the others did, or may have done,
 * is taken back in reverse of the partial order (I6). The capture is the pivot and joins the regions.
 */
import { z } from 'zod';
import { assign, emit, setup } from 'xstate';
import {
  compensatable,
  compensateAll,
  defineSaga,
  failureOf,
  pivot,
  retriable,
  type CancelEvent,
  type Failure,
} from '../../engine/core/index.ts';
import { known } from '../known.ts';
import {
  bookFlight,
  bookHotel,
  cancelFlight,
  cancelHotel,
  captureTrip,
  rentCar,
  returnCar,
  sendItinerary,
} from './contracts.ts';

export const tripInput = z.object({
  tripId: z.string().min(1).max(100),
  traveller: z.string().min(1).max(200),
  email: z.email(),
  flight: z.string().min(1).max(20),
  hotel: z.string().min(1).max(100),
  city: z.string().min(1).max(100),
  /** Null: no car is wanted. */
  carClass: z.string().min(1).max(50).nullable().default(null),
  nights: z.int().positive().max(365),
  amountCents: z.int().positive(),
  card: z.string().min(1).max(100),
});
export type TripInput = z.output<typeof tripInput>;

/** What the saga ends with, as a caller sees it. Bookings are given also when they were cancelled again. */
export interface TripOutput {
  outcome: 'completed' | 'cancelled';
  flightBooking: string | null;
  hotelBooking: string | null;
  carBooking: string | null;
  paymentId: string | null;
  /** Why it was cancelled; null when it was completed. */
  reason: Failure | null;
}

interface TripContext extends TripInput {
  flightBooking: string | null;
  seat: string | null;
  hotelBooking: string | null;
  carBooking: string | null;
  paymentId: string | null;
  reason: Failure | null;
}

/** Told to the world when the trip is paid: from then on it takes place. */
export interface TripBooked {
  type: 'TripBooked';
  tripId: string;
  traveller: string;
  amountCents: number;
  paymentId: string;
}

export const tripMachine = setup({
  types: {
    input: {} as TripInput,
    context: {} as TripContext,
    events: {} as CancelEvent,
    emitted: {} as TripBooked,
    output: {} as TripOutput,
    tags: {} as 'cancellable' | 'compensating' | 'past-pivot',
  },
  actors: {
    bookFlight: compensatable(bookFlight, {
      compensateWith: cancelFlight,
      compensation: ({ output }) => ({ bookingId: output.bookingId }),
      timeout: '1m',
    }),
    bookHotel: compensatable(bookHotel, {
      compensateWith: cancelHotel,
      compensation: ({ output }) => ({ bookingId: output.bookingId }),
      timeout: '1m',
    }),
    rentCar: compensatable(rentCar, {
      compensateWith: returnCar,
      compensation: ({ output }) => ({ bookingId: output.bookingId }),
      timeout: '1m',
    }),
    capture: pivot(captureTrip, { timeout: '2m' }),
    sendItinerary: retriable(sendItinerary),
    compensate: compensateAll(),
  },
  actions: {
    because: assign((_, reason: Failure) => ({ reason })),
  },
  guards: {
    wantsCar: ({ context }) => context.carClass !== null,
  },
}).createMachine({
  id: 'trip',
  context: ({ input }) => ({
    ...input,
    flightBooking: null,
    seat: null,
    hotelBooking: null,
    carBooking: null,
    paymentId: null,
    reason: null,
  }),
  initial: 'placing',
  states: {
    // All that can still be taken back, so that a cancel has one place to be handled.
    placing: {
      tags: 'cancellable',
      on: {
        'saga.cancel': {
          target: 'compensating',
          actions: {
            type: 'because',
            params: ({ event }) => ({ code: 'CANCELLED', message: event.reason }),
          },
        },
      },
      initial: 'booking',
      states: {
        booking: {
          type: 'parallel',
          onDone: 'capturing',
          states: {
            flight: {
              initial: 'asked',
              states: {
                asked: {
                  invoke: {
                    src: 'bookFlight',
                    input: ({ context: { tripId, flight, traveller } }) => ({
                      tripId,
                      flight,
                      traveller,
                    }),
                    onDone: {
                      target: 'booked',
                      actions: assign({
                        flightBooking: ({ event }) => event.output.bookingId,
                        seat: ({ event }) => event.output.seat,
                      }),
                    },
                    onError: {
                      target: '#trip.compensating',
                      actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
                    },
                  },
                },
                booked: { type: 'final' },
              },
            },
            hotel: {
              initial: 'asked',
              states: {
                asked: {
                  invoke: {
                    src: 'bookHotel',
                    input: ({ context: { tripId, hotel, nights, traveller } }) => ({
                      tripId,
                      hotel,
                      nights,
                      traveller,
                    }),
                    onDone: {
                      target: 'booked',
                      actions: assign({ hotelBooking: ({ event }) => event.output.bookingId }),
                    },
                    onError: {
                      target: '#trip.compensating',
                      actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
                    },
                  },
                },
                booked: { type: 'final' },
              },
            },
            car: {
              initial: 'wanted',
              states: {
                wanted: {
                  always: [{ guard: 'wantsCar', target: 'asked' }, { target: 'settled' }],
                },
                asked: {
                  invoke: {
                    src: 'rentCar',
                    input: ({ context: { tripId, city, carClass, nights } }) => ({
                      tripId,
                      city,
                      carClass: known(carClass, 'carClass'),
                      days: nights + 1,
                    }),
                    onDone: {
                      target: 'settled',
                      actions: assign({ carBooking: ({ event }) => event.output.bookingId }),
                    },
                    onError: {
                      target: '#trip.compensating',
                      actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
                    },
                  },
                },
                settled: { type: 'final' },
              },
            },
          },
        },
        capturing: {
          invoke: {
            src: 'capture',
            input: ({ context: { tripId, card, amountCents } }) => ({ tripId, card, amountCents }),
            onDone: {
              target: '#trip.confirming',
              actions: [
                assign({ paymentId: ({ event }) => event.output.paymentId }),
                emit(({ context: { tripId, traveller, amountCents }, event }) => ({
                  type: 'TripBooked',
                  tripId,
                  traveller,
                  amountCents,
                  paymentId: event.output.paymentId,
                })),
              ],
            },
            onError: {
              target: '#trip.compensating',
              actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
            },
          },
        },
      },
    },
    confirming: {
      tags: 'past-pivot',
      invoke: {
        src: 'sendItinerary',
        input: ({ context }) => ({
          tripId: context.tripId,
          email: context.email,
          flightBooking: known(context.flightBooking, 'flightBooking'),
          hotelBooking: known(context.hotelBooking, 'hotelBooking'),
          carBooking: context.carBooking,
          paymentId: known(context.paymentId, 'paymentId'),
        }),
        onDone: 'completed',
      },
    },
    compensating: {
      tags: 'compensating',
      invoke: { src: 'compensate', onDone: 'cancelled' },
    },
    completed: { type: 'final' },
    cancelled: { type: 'final' },
  },
  output: ({ context: { flightBooking, hotelBooking, carBooking, paymentId, reason } }) => ({
    outcome: paymentId === null ? 'cancelled' : 'completed',
    flightBooking,
    hotelBooking,
    carBooking,
    paymentId,
    reason,
  }),
});

export const trip = defineSaga({
  name: 'trip',
  version: 1,
  description: 'Books a flight, a hotel and perhaps a car, all or none, and pays for them.',
  machine: tripMachine,
  input: tripInput,
});
