/** The example services on real Postgres: their tables, their "no"s, what they never do. */
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as orders from '../../../definitions/order/contracts.ts';
import * as transfers from '../../../definitions/transfer/contracts.ts';
import * as trips from '../../../definitions/trip/contracts.ts';
import type { AnyContract, InputOf, OutputOf } from '../../../engine/core/index.ts';
import type { Rejected } from '../../../workers/handlers.ts';
import { auditBanks } from '../../../workers/services/bank-audit.ts';
import { exampleServices } from '../../../workers/services/index.ts';
import { sqlGatewayStorage } from '../../../workers/services/payments/gateway-storage.ts';
import { testDatabase, type TestDatabase } from '../../support/postgres.ts';
import { gatewayCases } from './gateway-cases.ts';

let db: TestDatabase;
let commands = 0;

beforeAll(async () => {
  db = await testDatabase({ empty: true });
  // Services of several processes start side by side.
  await Promise.all(
    [1, 2, 3].flatMap(() => exampleServices.map((service) => service.migrate(db.pool))),
  );
});
afterAll(() => db.drop());

/**
 * Runs one command's handler in a transaction, as a worker does without its barrier, and checks the
 * answer against the contract.
 */
async function run<C extends AnyContract>(
  contract: C,
  input: InputOf<C>,
): Promise<OutputOf<C> | Rejected> {
  const service = exampleServices.find((candidate) => candidate.service === contract.service);
  const handler = service
    ?.handlers({ outside: db.pool })
    .find((candidate) => candidate.contract === contract);
  if (handler?.kind !== 'transactional') throw new Error(`No such handler: ${contract.name}`);
  const commandId = `1.${++commands}`;
  const client: pg.PoolClient = await db.pool.connect();
  try {
    await client.query('BEGIN');
    const answer = await handler.run({
      input,
      tx: client,
      commandId,
      sagaId: '1',
      namespace: 'default',
      attempt: 1,
      deadlineAt: undefined,
      signal: new AbortController().signal,
      log: { debug: ignore, info: ignore, warn: ignore, error: ignore },
      original: null,
      reject: (code, data, message = '') => ({ outcome: 'rejected', code, message, data }),
    });
    if (isRejected(answer)) {
      await client.query('ROLLBACK');
      contract.rejections[answer.code].parse(answer.data);
      return answer;
    }
    await client.query('COMMIT');
    return contract.output.parse(answer);
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}
const ignore = (): void => undefined;

function isRejected(answer: unknown): answer is Rejected {
  return typeof answer === 'object' && answer !== null && 'outcome' in answer;
}

async function value(text: string, values: unknown[] = []): Promise<unknown> {
  const { rows } = await db.pool.query<{ [column: string]: unknown }>(text, values);
  return Object.values(rows[0] ?? {})[0];
}

describe('services', () => {
  it('own a schema each, and have a handler for every contract of the example sagas', () => {
    expect(new Set(exampleServices.map(({ schema }) => schema)).size).toBe(exampleServices.length);
    const handled = exampleServices.flatMap((service) =>
      service.handlers({ outside: db.pool }).map(({ contract }) => {
        expect(contract.service).toBe(service.service);
        return contract.name;
      }),
    );
    const declared = [orders, trips, transfers].flatMap((module) =>
      Object.values(module).flatMap((item) => ('kind' in item ? [item.name] : [])),
    );
    expect(new Set(handled)).toEqual(new Set(declared));
    expect(handled).toHaveLength(declared.length);
  });

  it('keep their data when they are migrated again', async () => {
    await db.pool.query(`UPDATE inventory.stock SET available = 7 WHERE sku = 'chair'`);
    for (const service of exampleServices) await service.migrate(db.pool);
    expect(await value(`SELECT available FROM inventory.stock WHERE sku = 'chair'`)).toBe('7');
  });
});

describe('inventory', () => {
  it('holds and releases stock, and releases it once', async () => {
    const before = Number(await value(`SELECT available FROM inventory.stock WHERE sku = 'lamp'`));
    const held = await run(orders.reserveStock, { orderId: 'o', sku: 'lamp', quantity: 3 });
    expect(await value(`SELECT available FROM inventory.stock WHERE sku = 'lamp'`)).toBe(
      String(before - 3),
    );
    const { reservationId } = held as { reservationId: string };
    expect(await run(orders.releaseStock, { reservationId })).toEqual({});
    expect(await value(`SELECT available FROM inventory.stock WHERE sku = 'lamp'`)).toBe(
      String(before),
    );
    await expect(run(orders.releaseStock, { reservationId })).rejects.toThrow(/is not held/);
  });

  it.each([
    ['sold-out', 1, 0],
    ['last-one', 2, 1],
    ['never-had', 1, 0],
  ])('rejects what is not there: %s', async (sku, quantity, available) => {
    expect(await run(orders.reserveStock, { orderId: 'o', sku, quantity })).toMatchObject({
      code: 'OutOfStock',
      data: { available },
    });
  });

  it('gives the last one to one of many', async () => {
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        run(orders.reserveStock, { orderId: 'o', sku: 'last-one', quantity: 1 }),
      ),
    );
    expect(answers.filter((answer) => !isRejected(answer))).toHaveLength(1);
    expect(await value(`SELECT available FROM inventory.stock WHERE sku = 'last-one'`)).toBe('0');
  });
});

describe('shipping and notifications', () => {
  const address = { name: 'A', street: 'S', city: 'C', postalCode: '1', country: 'DE' };

  it('hands over a parcel where we deliver, and rejects other addresses', async () => {
    const shipped = await run(orders.shipOrder, { orderId: 'o-9', reservationId: 'r', address });
    expect(
      await value('SELECT address FROM shipping.parcels WHERE tracking_id = $1', [
        (shipped as { trackingId: string }).trackingId,
      ]),
    ).toEqual(address);
    for (const country of ['AQ', 'XX']) {
      const answer = await run(orders.shipOrder, {
        orderId: 'o-9',
        reservationId: 'r',
        address: { ...address, country },
      });
      expect(answer).toMatchObject({ code: 'AddressUnserviceable', data: { country } });
    }
    expect(await value(`SELECT count(*) FROM shipping.parcels WHERE order_id = 'o-9'`)).toBe('1');
  });

  it('writes messages to whom they go', async () => {
    const { messageId } = (await run(trips.sendItinerary, {
      tripId: 't-9',
      email: 'ada@example.com',
      flightBooking: 'f',
      hotelBooking: 'h',
      carBooking: null,
      paymentId: 'p',
    })) as { messageId: string };
    const { rows } = await db.pool.query('SELECT * FROM notifications.messages');
    expect(rows).toEqual([
      expect.objectContaining({
        message_id: messageId,
        template: 'itinerary',
        recipient: 'ada@example.com',
        subject_id: 't-9',
        body: { flightBooking: 'f', hotelBooking: 'h', carBooking: null, paymentId: 'p' },
      }),
    ]);
  });
});

describe('airline, hotels and cars', () => {
  const flight = { tripId: 't', flight: 'SG300', traveller: 'Ada' };
  const room = { tripId: 't', hotel: 'plaza', nights: 2, traveller: 'Ada' };
  const car = { tripId: 't', city: 'oslo', carClass: 'compact', days: 3 };
  const free = () =>
    value(
      `SELECT array[(SELECT seats_free FROM airline.flights WHERE flight = 'SG300'),
                    (SELECT rooms_free FROM hotels.hotels WHERE hotel = 'plaza'),
                    (SELECT cars_free FROM cars.fleet WHERE city = 'oslo')]`,
    ) as Promise<number[]>;

  it('book, and take back once', async () => {
    const before = await free();
    const bookings = [
      await run(trips.bookFlight, flight),
      await run(trips.bookHotel, room),
      await run(trips.rentCar, car),
    ] as { bookingId: string }[];
    expect(await free()).toEqual(before.map((count) => count - 1));
    const back = [trips.cancelFlight, trips.cancelHotel, trips.returnCar];
    for (const [index, contract] of back.entries()) {
      const bookingId = bookings[index]?.bookingId ?? '';
      expect(await run(contract, { bookingId })).toEqual({});
      await expect(run(contract, { bookingId })).rejects.toThrow(/is not booked/);
    }
    expect(await free()).toEqual(before);
  });

  it('never give a seat twice', async () => {
    const booked = (await Promise.all(
      Array.from({ length: 14 }, () => run(trips.bookFlight, { ...flight, flight: 'SG200' })),
    )) as { seat: string }[];
    const seats = booked.map(({ seat }) => seat).sort();
    expect(seats.slice(0, 7)).toEqual(['1A', '1B', '1C', '1D', '1E', '1F', '2A']);
    expect(new Set(seats).size).toBe(14);
  });

  it('reject what is full', async () => {
    expect(await run(trips.bookFlight, { ...flight, flight: 'SG404' })).toMatchObject({
      code: 'FlightFull',
    });
    expect(await run(trips.bookHotel, { ...room, hotel: 'full-house' })).toMatchObject({
      code: 'NoVacancy',
    });
    expect(await run(trips.rentCar, { ...car, city: 'lisbon', carClass: 'van' })).toMatchObject({
      code: 'NoCarAvailable',
    });
  });
});

describe('the banks', () => {
  it.each([
    ['a-poor', 101, { code: 'InsufficientFunds', data: { account: 'a-poor', balanceCents: 100 } }],
    ['a-closed', 1, { code: 'AccountClosed' }],
    ['nobody', 1, { code: 'AccountUnknown' }],
  ])('take nothing from %s', async (account, amountCents, rejection) => {
    const before = await auditBanks(db.pool);
    const answer = await run(transfers.debit, { transferId: 'x', account, amountCents });
    expect(answer).toMatchObject(rejection);
    expect(await auditBanks(db.pool)).toEqual(before);
  });

  it.each([
    ['b-closed', 'AccountClosed'],
    ['nobody', 'AccountUnknown'],
  ])('bring nothing to %s', async (account, code) => {
    const answer = await run(transfers.credit, { transferId: 'x', account, amountCents: 1 });
    expect(answer).toMatchObject({ code });
  });

  it('give back a debit once, also to an account that was closed meanwhile', async () => {
    const before = await auditBanks(db.pool);
    const debited = await run(transfers.debit, {
      transferId: 'x',
      account: 'anton',
      amountCents: 250,
    });
    expect(await auditBanks(db.pool)).toMatchObject({
      inFlightCents: before.inFlightCents + 250,
      totalCents: before.totalCents,
    });
    await db.pool.query(`UPDATE bank_a.accounts SET closed = true WHERE account = 'anton'`);
    const { entryId } = debited as { entryId: string };
    await run(transfers.reverseDebit, { entryId });
    expect(await auditBanks(db.pool)).toEqual(before);
    await expect(run(transfers.reverseDebit, { entryId })).rejects.toThrow(/duplicate key/);
    await expect(run(transfers.reverseDebit, { entryId: 'none' })).rejects.toThrow(/no debit/);
    expect(await auditBanks(db.pool)).toEqual(before);
  });

  it('keep the total while many transfers run, and are square at the end', async () => {
    const before = await auditBanks(db.pool);
    const done = new AbortController();
    const looks: Promise<number> = (async () => {
      let count = 0;
      for (; !done.signal.aborted; count++) {
        const seen = await auditBanks(db.pool);
        expect(seen.totalCents).toBe(before.totalCents);
        expect(seen.accountsOff).toBe(0);
      }
      return count;
    })();
    // Amounts that together overdraw the account, so that some are refused.
    const outcomes = await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        const amountCents = 10_000 + index * 500;
        const transferId = `many-${index}`;
        const debited = await run(transfers.debit, { transferId, account: 'alice', amountCents });
        if (isRejected(debited)) return 'refused';
        const account = index % 3 === 0 ? 'b-closed' : 'bob';
        const credited = await run(transfers.credit, { transferId, account, amountCents });
        if (!isRejected(credited)) return 'credited';
        await run(transfers.reverseDebit, { entryId: debited.entryId });
        return 'reversed';
      }),
    );
    done.abort();
    expect(await looks).toBeGreaterThan(0);
    for (const outcome of ['refused', 'credited', 'reversed']) expect(outcomes).toContain(outcome);
    const after = await auditBanks(db.pool);
    expect(after).toMatchObject({ inFlightCents: 0, totalCents: before.totalCents });
    expect(
      Number(await value(`SELECT min(balance_cents) FROM bank_a.accounts`)),
    ).toBeGreaterThanOrEqual(0);
  });
});

describe('the payment gateway, its books in SQL', () => {
  gatewayCases(
    () => sqlGatewayStorage(db.pool),
    async (prefix) =>
      Number(
        await value(
          'SELECT count(*) FROM payment_gateway.operations WHERE starts_with(idempotency_key, $1)',
          [prefix],
        ),
      ),
  );
});
