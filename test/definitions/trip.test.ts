/** The trip machine on all its paths, by an author's means: no engine, no participants. */
import { describe, expect, it } from 'vitest';
import { trip, tripInput, tripMachine } from '../../definitions/trip/saga.ts';
import { rejection, runMachine, unvisited } from './run-machine.ts';

const STEPS = ['bookFlight', 'bookHotel', 'rentCar', 'capture', 'sendItinerary', 'compensate'];
const OUTPUTS: { [src: string]: object } = {
  bookFlight: { bookingId: 'flight-1', seat: '1A' },
  bookHotel: { bookingId: 'stay-1' },
  rentCar: { bookingId: 'car-1' },
};
const REGIONS = [
  { src: 'bookFlight', code: 'FlightFull', data: { flight: 'SG404' } },
  { src: 'bookHotel', code: 'NoVacancy', data: { hotel: 'full-house' } },
  { src: 'rentCar', code: 'NoCarAvailable', data: { city: 'lisbon', carClass: 'van' } },
];

function start(overrides: object = {}) {
  const input = tripInput.parse({
    tripId: 't-1',
    traveller: 'Ada',
    email: 'ada@example.com',
    flight: 'SG100',
    hotel: 'grand',
    city: 'lisbon',
    carClass: 'compact',
    nights: 3,
    amountCents: 90_000,
    card: '4242-4242-4242-4242',
    ...overrides,
  });
  return runMachine(tripMachine, STEPS, input);
}
type Run = ReturnType<typeof start>;

async function book(run: Run, srcs: readonly string[]): Promise<void> {
  for (const src of srcs) (await run.step(src)).give(OUTPUTS[src]);
}

async function cancelled(run: Run): Promise<unknown> {
  await run.at('compensating');
  (await run.step('compensate')).give(null);
  return run.output();
}

describe('trip', () => {
  it('asks for all three at once, then takes the money, then tells the traveller and the world', async () => {
    const run = start();
    expect(run.order()).toEqual(['bookFlight', 'bookHotel', 'rentCar']);
    expect((await run.step('rentCar')).input).toEqual({
      tripId: 't-1',
      city: 'lisbon',
      carClass: 'compact',
      days: 4,
    });
    await book(run, ['rentCar', 'bookFlight', 'bookHotel']);
    const capture = await run.step('capture');
    expect(capture.input).toEqual({
      tripId: 't-1',
      card: '4242-4242-4242-4242',
      amountCents: 90_000,
    });
    expect(run.emitted).toEqual([]);
    capture.give({ paymentId: 'ch-1' });
    const itinerary = await run.step('sendItinerary');
    expect(run.emitted).toEqual([
      {
        type: 'TripBooked',
        tripId: 't-1',
        traveller: 'Ada',
        amountCents: 90_000,
        paymentId: 'ch-1',
      },
    ]);
    expect(itinerary.input).toEqual({
      tripId: 't-1',
      email: 'ada@example.com',
      flightBooking: 'flight-1',
      hotelBooking: 'stay-1',
      carBooking: 'car-1',
      paymentId: 'ch-1',
    });
    itinerary.give({ messageId: 'msg-1' });
    expect(await run.output()).toEqual({
      outcome: 'completed',
      flightBooking: 'flight-1',
      hotelBooking: 'stay-1',
      carBooking: 'car-1',
      paymentId: 'ch-1',
      reason: null,
    });
  });

  it('waits for the slowest region before the pivot', async () => {
    const run = start();
    await book(run, ['bookFlight', 'bookHotel']);
    await run.at({ placing: { booking: { flight: 'booked', hotel: 'booked', car: 'asked' } } });
    expect(run.order()).not.toContain('capture');
  });

  it('rents no car when none is wanted', async () => {
    const run = start({ carClass: null });
    expect(run.order()).toEqual(['bookFlight', 'bookHotel']);
    await book(run, ['bookFlight', 'bookHotel']);
    (await run.step('capture')).give({ paymentId: 'ch-1' });
    const itinerary = await run.step('sendItinerary');
    expect(itinerary.input).toMatchObject({ carBooking: null });
    itinerary.give({ messageId: 'msg-1' });
    expect(await run.output()).toMatchObject({ outcome: 'completed', carBooking: null });
  });

  it.each(REGIONS)('is cancelled when $src is refused first', async ({ src, code, data }) => {
    const run = start();
    (await run.step(src)).reject(code, data);
    expect(await cancelled(run)).toEqual({
      outcome: 'cancelled',
      flightBooking: null,
      hotelBooking: null,
      carBooking: null,
      paymentId: null,
      reason: rejection(code, data),
    });
    expect(run.emitted).toEqual([]);
  });

  it.each(REGIONS)('is cancelled when $src is refused last', async ({ src, code, data }) => {
    const run = start();
    const others = REGIONS.map((region) => region.src).filter((other) => other !== src);
    await book(run, others);
    (await run.step(src)).reject(code, data);
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      reason: rejection(code, data),
    });
  });

  it('keeps the first of two refusals', async () => {
    const run = start();
    const flight = await run.step('bookFlight');
    const hotel = await run.step('bookHotel');
    flight.reject('FlightFull', { flight: 'SG404' });
    hotel.reject('NoVacancy', { hotel: 'full-house' });
    expect(await cancelled(run)).toMatchObject({ reason: { code: 'FlightFull' } });
  });

  it('is cancelled when the price cannot be captured, and tells the world nothing', async () => {
    const run = start();
    await book(run, ['bookFlight', 'bookHotel', 'rentCar']);
    (await run.step('capture')).reject('CardDeclined', { declineCode: 'generic_decline' });
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      flightBooking: 'flight-1',
      paymentId: null,
      reason: { code: 'CardDeclined' },
    });
    expect(run.emitted).toEqual([]);
    expect(run.order()).not.toContain('sendItinerary');
  });

  it('can be cancelled while it is being booked, and not once it is paid', async () => {
    const early = start();
    await book(early, ['bookHotel']);
    early.actor.send({ type: 'saga.cancel', reason: 'ill', by: 'ada' });
    expect(await cancelled(early)).toMatchObject({ reason: { code: 'CANCELLED', message: 'ill' } });

    const late = start();
    await book(late, ['bookFlight', 'bookHotel', 'rentCar']);
    (await late.step('capture')).give({ paymentId: 'ch-1' });
    await late.at('confirming');
    late.actor.send({ type: 'saga.cancel', reason: 'ill', by: 'ada' });
    (await late.step('sendItinerary')).give({ messageId: 'msg-1' });
    expect(await late.output()).toMatchObject({ outcome: 'completed' });
  });

  it('is accepted as a definition, and had every one of its states visited', () => {
    expect(trip.services).toEqual(['airline', 'cars', 'hotels', 'notifications', 'payments']);
    expect(unvisited(tripMachine)).toEqual([]);
  });
});
