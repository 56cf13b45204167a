/**
 * The example sagas with their real participants: each failure of docs/AUTHORING.md, and what is left
 * in the services' tables after it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { auditBanks } from '../../../workers/services/bank-audit.ts';
import { TEST_CARDS } from '../../../workers/services/payments/gateway.ts';
import { testDatabase, type TestDatabase } from '../../support/postgres.ts';
import { startExamples, type Examples } from './example-world.ts';

let db: TestDatabase;
let examples: Examples;

beforeAll(async () => {
  db = await testDatabase({ empty: true });
  examples = await startExamples(db);
});
afterAll(async () => {
  await examples.stop();
  await db.drop();
});

async function rows(text: string, values: unknown[] = []): Promise<unknown[]> {
  return (await db.pool.query<{ [column: string]: unknown }>(text, values)).rows;
}

// ---------------------------------------------------------------- orders

const address = { name: 'A', street: 'S', city: 'C', postalCode: '1', country: 'DE' };
let orders = 0;

function orderInput(overrides: object) {
  return {
    orderId: `order-${++orders}`,
    email: 'ada@example.com',
    sku: 'book',
    quantity: 2,
    amountCents: 4_200,
    card: TEST_CARDS.charged,
    address,
    approvalTimeoutMs: 60_000,
    ...overrides,
  };
}

/** What an order has left behind: every table that it could have touched. */
async function traces(sagaId: string, orderId: string) {
  const charges = await rows(
    `SELECT c.status, c.amount_cents::int AS amount,
            EXISTS (SELECT 1 FROM payment_gateway.operations AS r
                     WHERE r.kind = 'refund' AND r.target = c.operation_id) AS refunded
       FROM payment_gateway.operations AS c
      WHERE c.kind = 'charge' AND starts_with(c.idempotency_key, $1)`,
    [`${sagaId}.`],
  );
  return {
    reservations: await rows(
      'SELECT sku, quantity::int, state FROM inventory.reservations WHERE order_id = $1',
      [orderId],
    ),
    charges,
    parcels: (await rows('SELECT 1 FROM shipping.parcels WHERE order_id = $1', [orderId])).length,
    messages: (await rows('SELECT 1 FROM notifications.messages WHERE subject_id = $1', [orderId]))
      .length,
  };
}

const DONE = {
  reservations: [{ sku: 'book', quantity: 2, state: 'held' }],
  charges: [{ status: 'succeeded', amount: 4_200, refunded: false }],
  parcels: 1,
  messages: 1,
};
const TAKEN_BACK = {
  reservations: [{ sku: 'book', quantity: 2, state: 'released' }],
  charges: [{ status: 'succeeded', amount: 4_200, refunded: true }],
  parcels: 0,
  messages: 0,
};

describe('an order', () => {
  it.each([TEST_CARDS.charged, TEST_CARDS.unavailableTwice, TEST_CARDS.answerLost])(
    'is completed with the card %s, which is charged once',
    async (card) => {
      const input = orderInput({ card });
      const sagaId = await examples.start('order', input);
      expect(await examples.ended(sagaId)).toMatchObject({
        status: 'completed',
        output: {
          outcome: 'completed',
          reservationId: `res-${sagaId}.1`,
          paymentId: `ch_${sagaId}.2`,
          trackingId: `parcel-${sagaId}.3`,
          reason: null,
        },
      });
      expect(await traces(sagaId, input.orderId)).toEqual(DONE);
    },
  );

  it('waits for the holder of the card, and goes on when told', async () => {
    const input = orderInput({ card: TEST_CARDS.needsConfirmation });
    const sagaId = await examples.start('order', input);
    await examples.logged(sagaId, 'StepPending');
    await examples.complete(sagaId, `${sagaId}.2`, { paymentId: `ch_${sagaId}.2` });
    expect(await examples.ended(sagaId)).toMatchObject({ status: 'completed' });
  });

  it.each([
    [{ sku: 'sold-out' }, 'OutOfStock', { reservations: [], charges: [], parcels: 0, messages: 0 }],
    [
      { card: TEST_CARDS.declined },
      'CardDeclined',
      { ...TAKEN_BACK, charges: [{ status: 'declined', amount: 4_200, refunded: false }] },
    ],
    [{ address: { ...address, country: 'AQ' } }, 'AddressUnserviceable', TAKEN_BACK],
    [
      { card: TEST_CARDS.answerLost, address: { ...address, country: 'AQ' } },
      'AddressUnserviceable',
      TAKEN_BACK,
    ],
  ])('with %j is cancelled: %s', async (overrides, code, left) => {
    const input = orderInput(overrides);
    const sagaId = await examples.start('order', input);
    expect(await examples.ended(sagaId)).toMatchObject({
      status: 'compensated',
      failureCode: code,
      output: { outcome: 'cancelled', reason: { code } },
    });
    expect(await traces(sagaId, input.orderId)).toEqual(left);
  });

  it('above the limit is shipped once it is approved', async () => {
    const input = orderInput({ amountCents: 100_001 });
    const sagaId = await examples.start('order', input);
    await examples.at(sagaId, 'placing.awaitingApproval');
    await examples.signal(sagaId, 'approve', { by: 'grace' });
    expect(await examples.ended(sagaId)).toMatchObject({ status: 'completed' });
  });

  it.each([
    ['it is declined', 60_000, 'Declined'],
    ['nobody approves it in time', 1, 'ApprovalTimedOut'],
    ['it is cancelled while it waits', 60_000, 'CANCELLED'],
  ])('above the limit is taken back when %s', async (_, approvalTimeoutMs, code) => {
    const input = orderInput({ amountCents: 100_001, approvalTimeoutMs });
    const sagaId = await examples.start('order', input);
    if (code === 'Declined') {
      await examples.at(sagaId, 'placing.awaitingApproval');
      await examples.signal(sagaId, 'decline', { by: 'grace', reason: 'odd' });
    } else if (code === 'CANCELLED') {
      await examples.at(sagaId, 'placing.awaitingApproval');
      await examples.cancel(sagaId, 'changed my mind');
    }
    expect(await examples.ended(sagaId)).toMatchObject({
      status: 'compensated',
      output: { outcome: 'cancelled', reason: { code } },
    });
    expect(await traces(sagaId, input.orderId)).toEqual({
      ...TAKEN_BACK,
      charges: [{ status: 'succeeded', amount: 100_001, refunded: true }],
    });
  });
});

// ---------------------------------------------------------------- trips

let trips = 0;
function tripInput(overrides: object) {
  return {
    tripId: `trip-${++trips}`,
    traveller: 'Ada',
    email: 'ada@example.com',
    flight: 'SG100',
    hotel: 'grand',
    city: 'lisbon',
    carClass: 'compact',
    nights: 3,
    amountCents: 90_000,
    card: TEST_CARDS.charged,
    ...overrides,
  };
}

/** States of the bookings that a trip has made. */
const bookings = async (tripId: string): Promise<unknown> =>
  (
    await rows(
      `SELECT (SELECT state FROM airline.bookings WHERE trip_id = $1) AS flight,
              (SELECT state FROM hotels.stays WHERE trip_id = $1) AS hotel,
              (SELECT state FROM cars.rentals WHERE trip_id = $1) AS car`,
      [tripId],
    )
  )[0];

describe('a trip', () => {
  it('is booked as a whole, and the world is told once', async () => {
    const input = tripInput({});
    const sagaId = await examples.start('trip', input);
    const saga = await examples.ended(sagaId);
    expect(saga).toMatchObject({ status: 'completed', output: { outcome: 'completed' } });
    expect(await bookings(input.tripId)).toEqual({
      flight: 'booked',
      hotel: 'booked',
      car: 'booked',
    });
    const told = examples.history(sagaId).filter(({ type }) => type === 'DomainEventEmitted');
    expect(told).toEqual([
      {
        type: 'DomainEventEmitted',
        event: {
          type: 'TripBooked',
          tripId: input.tripId,
          traveller: 'Ada',
          amountCents: 90_000,
          paymentId: (saga.output as { paymentId: string }).paymentId,
        },
      },
    ]);
  });

  it.each([
    [{ flight: 'SG404' }, 'FlightFull', 'flight'],
    [{ hotel: 'full-house' }, 'NoVacancy', 'hotel'],
    [{ carClass: 'van' }, 'NoCarAvailable', 'car'],
    [{ card: TEST_CARDS.declined }, 'CardDeclined', 'none'],
  ])('with %j is taken back as a whole: %s', async (overrides, code, refused) => {
    const input = tripInput(overrides);
    const sagaId = await examples.start('trip', input);
    expect(await examples.ended(sagaId)).toMatchObject({
      status: 'compensated',
      output: { outcome: 'cancelled', reason: { code } },
    });
    const left = (await bookings(input.tripId)) as { [part: string]: string | null };
    // A part that the saga left before its command came never ran, and never will. Once the money is
    // asked for, all of them ran.
    const others = refused === 'none' ? ['cancelled'] : ['cancelled', null];
    for (const [part, state] of Object.entries(left)) {
      expect(part === refused ? [null] : others, part).toContain(state);
    }
    const told = examples.history(sagaId).filter(({ type }) => type === 'DomainEventEmitted');
    expect(told).toEqual([]);
  });
});

// ---------------------------------------------------------------- transfers

describe('transfers', () => {
  it('keep the total of both banks, whatever comes of them', { timeout: 60_000 }, async () => {
    const before = await auditBanks(db.pool);
    const ids = await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        examples.start('transfer', {
          transferId: `transfer-${index}`,
          from: ['alice', 'anton', 'a-poor', 'a-closed'][index % 4],
          to: ['bob', 'berta', 'b-closed'][index % 3],
          amountCents: 10_000 + index * 4_000,
          email: 'ada@example.com',
        }),
      ),
    );
    const ended = await Promise.all(ids.map((sagaId) => examples.ended(sagaId)));
    const codes = new Set(ended.map(({ status, failureCode }) => failureCode ?? status));
    expect(codes).toEqual(new Set(['completed', 'InsufficientFunds', 'AccountClosed']));
    const after = await auditBanks(db.pool);
    expect(after).toMatchObject({
      inFlightCents: 0,
      totalCents: before.totalCents,
      accountsOff: 0,
    });
    const moved = ended.flatMap(({ status, output }) =>
      status === 'completed' ? [(output as { creditEntry: string }).creditEntry] : [],
    );
    expect(
      await rows(
        `SELECT (SELECT coalesce(sum(amount_cents), 0)::int FROM bank_a.entries) AS a,
                (SELECT coalesce(sum(amount_cents), 0)::int FROM bank_b.entries WHERE entry_id = ANY($1)) AS b`,
        [moved],
      ).then(([sums]) => sums),
    ).toSatisfy(({ a, b }: { a: number; b: number }) => a === -b && b > 0);
  });
});

describe('all of them', () => {
  it('left no message that could not be applied', async () => {
    expect(await examples.deadLetters()).toEqual([]);
  });
});
