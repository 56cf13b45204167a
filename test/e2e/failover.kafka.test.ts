/**
 * Two engine nodes and two worker processes on real Kafka; one of each is killed with SIGKILL in the
 * middle of 500 sagas. All must end right, none twice, and what took over must have done so in time.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { kafkaBrokers } from '../support/kafka.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { eventually, startProcess, type SagaxProcess } from './processes.ts';

const SAGAS = 500;
const SHARDS = 8;
/** Shard lease and Kafka session; what takes over may need one of them and a rebalance. */
const TAKEOVER_LIMIT_MS = 30_000;
const brokers = kafkaBrokers();

interface Row {
  saga_id: string;
  status: string;
  definition: string;
  business_key: string;
}

describe.skipIf(brokers === null)('failover on Kafka', () => {
  let database: TestDatabase;
  const processes: SagaxProcess[] = [];
  let env: { [name: string]: string };
  let api: string;

  const start = (role: string): SagaxProcess => {
    const started = startProcess(role, env);
    processes.push(started);
    return started;
  };
  const query = async <T>(text: string, values: unknown[] = []): Promise<T[]> =>
    (await database.pool.query(text, values)).rows as T[];

  beforeAll(async () => {
    database = await testDatabase();
    env = {
      DATABASE_URL: database.url,
      KAFKA_BROKERS: (brokers ?? []).join(','),
      SAGAX_TOPIC_PREFIX: `e2e-${randomBytes(4).toString('hex')}`,
      SAGAX_SHARDS: String(SHARDS),
      SAGAX_COMMAND_PARTITIONS: '4',
      SAGAX_PORT: '0',
    };
    const [listening] = await Promise.all([
      start('api').line(/"address":"([^"]+)"/),
      start('engine').line(/the engine runs/),
      start('worker').line(/the workers run/),
    ]);
    api = listening[1] ?? '';
    await Promise.all([
      start('engine').line(/the engine runs/),
      start('worker').line(/the workers run/),
    ]);
  });

  afterAll(async () => {
    for (const one of processes) one.kill('SIGKILL');
    await Promise.all(processes.map(({ ended }) => ended));
    await database?.drop();
  });

  test(
    '500 sagas end right, none twice, though a node and a worker are killed',
    { timeout: 240_000 },
    async () => {
      const owners = await eventually('both engines hold shards', 60_000, async () => {
        const rows = await query<{ owner: string; n: string }>(
          `SELECT owner, count(*) AS n FROM sagax.shards WHERE owner IS NOT NULL GROUP BY owner`,
        );
        const held = rows.reduce((sum, { n }) => sum + Number(n), 0);
        return rows.length === 2 && held === SHARDS ? rows : null;
      });
      expect(owners.map(({ n }) => Number(n))).toEqual([SHARDS / 2, SHARDS / 2]);

      await startSagas();
      await eventually('some sagas have ended', 60_000, async () =>
        (await ended()) >= SAGAS / 10 ? true : null,
      );
      const endedBefore = await ended();

      const [engine, worker] = ['engine', 'worker'].map((role) =>
        processes.find((one) => one.role === role),
      );
      if (engine === undefined || worker === undefined) throw new Error('not started');
      const victim = owners.find(({ owner }) => owner.includes(`#${engine.pid}-`))?.owner;
      expect(victim).toBeDefined();
      const killedAt = performance.now();
      engine.kill('SIGKILL');
      worker.kill('SIGKILL');
      expect(endedBefore).toBeLessThan(SAGAS);

      await eventually(
        'the shards of the dead node are taken over',
        TAKEOVER_LIMIT_MS,
        async () => {
          const [row] = await query<{ n: string }>(
            `SELECT count(*) AS n FROM sagax.shards WHERE owner = $1`,
            [victim],
          );
          return row?.n === '0' ? true : null;
        },
      );
      const takeover_ms = Math.round(performance.now() - killedAt);
      await eventually('all sagas have ended', 120_000, async () =>
        (await ended()) === SAGAS ? true : null,
      );
      const all_ms = Math.round(performance.now() - killedAt);
      console.log(
        `failover: ${endedBefore} of ${SAGAS} ended before the kill; take-over of ${SHARDS / 2} shards after ${takeover_ms} ms, all ended after ${all_ms} ms`,
      );

      await expectRightEnds();
      await expectLogInvariants();
      await expectEffectsOnce();
    },
  );

  async function startSagas(): Promise<void> {
    const items = Array.from({ length: SAGAS }, (_, index) => ({
      definition: 'order',
      businessKey: `key-${index}`,
      input: {
        orderId: `order-${index}`,
        email: 'ann@example.com',
        sku: index % 10 === 0 ? 'sold-out' : `item-${String((index % 100) + 1).padStart(3, '0')}`,
        quantity: 1,
        amountCents: 4_200,
        card: index % 10 === 1 ? '4000000000000002' : '4242424242424242',
        address: {
          name: 'Ann',
          street: 'Way 1',
          city: 'Ulm',
          postalCode: '89073',
          country: index % 10 === 2 ? 'AQ' : 'DE',
        },
      },
    }));
    for (let from = 0; from < items.length; from += 100) {
      const answer = await fetch(`${api}/v1/sagas/batch`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ items: items.slice(from, from + 100) }),
      });
      expect(answer.status, await answer.clone().text()).toBe(200);
    }
  }

  const ended = async (): Promise<number> => {
    const [row] = await query<{ n: string }>(
      `SELECT count(*) AS n FROM sagax.sagas WHERE ended_at_ms IS NOT NULL`,
    );
    return Number(row?.n);
  };

  async function expectRightEnds(): Promise<void> {
    const rows = await query<Row>(
      `SELECT saga_id, status, definition, business_key FROM sagax.sagas`,
    );
    expect(rows).toHaveLength(SAGAS);
    for (const { business_key, status } of rows) {
      const index = Number(business_key.slice('key-'.length));
      expect([business_key, status]).toEqual([
        business_key,
        index % 10 <= 2 ? 'compensated' : 'completed',
      ]);
    }
  }

  /** I1, I2 and I5 by plain SQL over the log. */
  async function expectLogInvariants(): Promise<void> {
    const broken = await query(`
      SELECT saga_id FROM sagax.events GROUP BY saga_id
      HAVING max(stream_version) <> count(*) OR min(stream_version) <> 1
        OR count(*) FILTER (WHERE type = 'SagaStarted') <> 1
        OR count(*) FILTER (WHERE type IN ('SagaCompleted', 'SagaCompensated')) <> 1`);
    expect(broken).toEqual([]);
    const gaps = await query(
      `SELECT shard FROM sagax.events GROUP BY shard HAVING max(shard_seq) <> count(*) OR count(DISTINCT shard_seq) <> count(*)`,
    );
    expect(gaps).toEqual([]);
    const backwards = await query(`
      SELECT * FROM (SELECT saga_id, epoch, lag(epoch) OVER (PARTITION BY saga_id ORDER BY stream_version) AS before FROM sagax.events) e
      WHERE epoch < before`);
    expect(backwards).toEqual([]);
    const afterEnd = await query(`
      SELECT e.saga_id FROM sagax.events e JOIN sagax.events t ON t.saga_id = e.saga_id AND t.type IN ('SagaCompleted', 'SagaCompensated')
      WHERE e.stream_version > t.stream_version`);
    expect(afterEnd).toEqual([]);
  }

  /** I6, I7 and I8 by the participants' own books. */
  async function expectEffectsOnce(): Promise<void> {
    const reservations = await query<{ order_id: string; states: string[] }>(
      `SELECT order_id, array_agg(state) AS states FROM inventory.reservations GROUP BY order_id`,
    );
    const held = new Map(reservations.map(({ order_id, states }) => [order_id, states]));
    const parcels = await query<{ order_id: string; n: string }>(
      `SELECT order_id, count(*) AS n FROM shipping.parcels GROUP BY order_id`,
    );
    const shipped = new Map(parcels.map(({ order_id, n }) => [order_id, Number(n)]));
    const receipts = await query<{ subject_id: string; n: string }>(
      `SELECT subject_id, count(*) AS n FROM notifications.messages GROUP BY subject_id`,
    );
    const told = new Map(receipts.map(({ subject_id, n }) => [subject_id, Number(n)]));
    for (let index = 0; index < SAGAS; index++) {
      const id = `order-${index}`;
      const kind = index % 10;
      const want =
        kind === 0
          ? { held: undefined, shipped: undefined, told: undefined }
          : kind <= 2
            ? { held: ['released'], shipped: undefined, told: undefined }
            : { held: ['held'], shipped: 1, told: 1 };
      expect([id, { held: held.get(id), shipped: shipped.get(id), told: told.get(id) }]).toEqual([
        id,
        want,
      ]);
    }
    const [stock] = await query<{ moved: string; booked: string }>(`
      SELECT (SELECT sum(1000000 - available) FROM inventory.stock WHERE sku LIKE 'item-%') AS moved,
        (SELECT sum(quantity) FROM inventory.reservations WHERE state = 'held' AND sku LIKE 'item-%') AS booked`);
    expect(stock?.moved).toBe(stock?.booked);
    const charges = await query<{ kind: string; n: string }>(
      `SELECT kind, count(*) AS n FROM payment_gateway.operations WHERE status = 'succeeded' GROUP BY kind ORDER BY kind`,
    );
    // Charged: all but those without stock and those declined; given back: those that could not be shipped.
    expect(charges).toEqual([
      { kind: 'charge', n: String(SAGAS * 0.8) },
      { kind: 'refund', n: String(SAGAS * 0.1) },
    ]);
  }
});
