/**
 * Separate processes on a log over two Postgres servers: two engine nodes with shards of both, workers, REST. One
 * engine is killed, then one of the two servers is stopped and started again. Run on each bus.
 */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { partitionOf } from '../../engine/core/shards.ts';
import { checkShards } from '../runtime/orders.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { secondPostgres, type SecondPostgres } from '../support/second-postgres.ts';
import { eventually, startProcess, type SagaxProcess } from './processes.ts';

/** Sagas that start together share a shard, and so a database: more than a shard is given at a time. */
const ORDERS = 80;
const SHARDS = 8;
const LIMIT_MS = 60_000;

interface Saga {
  sagaId: string;
  status: string;
}
interface Page {
  items: Saga[];
  next: string | null;
  missing?: { part: number; parts: number; shards: number[] }[];
}

export function twoDatabases(brokers: readonly string[] | null): void {
  let first: TestDatabase;
  let second: SecondPostgres;
  let pools: [pg.Pool, pg.Pool];
  let env: { [name: string]: string };
  let api: string;
  const processes: SagaxProcess[] = [];

  const start = (role: string): SagaxProcess => {
    const started = startProcess(role, env);
    processes.push(started);
    return started;
  };

  beforeAll(async () => {
    [first, second] = await Promise.all([testDatabase(), secondPostgres()]);
    const url = await second.database('log_2');
    const pool = new pg.Pool({ connectionString: url, max: 2 });
    pool.on('error', () => undefined);
    pools = [first.pool, pool];
    env = {
      SAGAX_LOG_DATABASES: `${first.url},${url}`,
      SAGAX_TOPIC_PREFIX: `two-${randomBytes(4).toString('hex')}`,
      SAGAX_SHARDS: String(SHARDS),
      SAGAX_COMMAND_PARTITIONS: '4',
      SAGAX_PORT: '0',
      SAGAX_SHARD_LEASE_MS: '3000',
      ...(brokers === null ? {} : { KAFKA_BROKERS: brokers.join(',') }),
    };
    const [listening] = await Promise.all([
      start('api').line(/"address":"([^"]+)"/),
      start('engine').line(/the engine runs/),
      start('worker').line(/the workers run/),
    ]);
    api = listening[1] ?? '';
    await start('engine').line(/the engine runs/);
  });

  afterAll(async () => {
    for (const one of processes) one.kill('SIGKILL');
    await Promise.all(processes.map(({ ended }) => ended));
    await pools[1].end();
    await Promise.all([first.drop(), second.drop()]);
  });

  const call = async (path: string, init: RequestInit = {}): Promise<Response> =>
    fetch(`${api}${path}`, { signal: AbortSignal.timeout(10_000), ...init });

  let made = 0;
  /** Starts orders by REST; a start is said again, under its key, until it is answered. */
  async function startOrders(count: number): Promise<string[]> {
    const items = Array.from({ length: count }, () => ({
      definition: 'order',
      businessKey: `key-${(made += 1)}`,
      input: {
        orderId: `order-${made}`,
        email: 'ann@example.com',
        sku: `item-${String((made % 100) + 1).padStart(3, '0')}`,
        quantity: 1,
        amountCents: 4_200,
        card: '4242424242424242',
        address: { name: 'Ann', street: 'Way 1', city: 'Ulm', postalCode: '89073', country: 'DE' },
      },
    }));
    const answer = await call('/v1/sagas/batch', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ items }),
    });
    const text = await answer.text();
    expect(answer.status, text).toBe(200);
    const answered = JSON.parse(text) as { items: { sagaId: string }[] };
    return answered.items.map(({ sagaId }) => sagaId);
  }

  /** All pages, newest first. */
  async function list(): Promise<{ ids: string[]; missing: Page['missing'] }> {
    const ids: string[] = [];
    let missing: Page['missing'];
    for (let cursor: string | null = ''; cursor !== null;) {
      const query = cursor === '' ? '' : `&cursor=${cursor}`;
      const answer = await call(`/v1/sagas?limit=7${query}`);
      const text = await answer.text();
      expect(answer.status, text).toBe(200);
      const page = JSON.parse(text) as Page;
      ids.push(...page.items.map(({ sagaId }) => sagaId));
      missing ??= page.missing;
      cursor = page.next;
    }
    return { ids, missing };
  }

  const placeOf = (sagaId: string): number => partitionOf(sagaId, SHARDS) % 2;
  const newestFirst = (ids: readonly string[]): string[] =>
    [...ids].sort((a, b) => (BigInt(a) < BigInt(b) ? 1 : -1));

  async function ended(ids: readonly string[], databases: readonly pg.Pool[]): Promise<void> {
    await eventually('all sagas have ended', LIMIT_MS, async () => {
      let count = 0;
      for (const pool of databases) {
        const { rows } = await pool.query<{ n: number }>(
          `SELECT count(*)::int AS n FROM sagax.sagas WHERE status = 'completed' AND saga_id = ANY ($1::bigint[])`,
          [ids],
        );
        count += rows[0]?.n ?? 0;
      }
      return count === ids.length ? true : null;
    });
  }

  /** Owners of shards, by database. */
  const owners = async (): Promise<string[][]> =>
    Promise.all(
      pools.map(async (pool) => {
        const { rows } = await pool.query<{ owner: string }>(
          'SELECT DISTINCT owner FROM sagax.shards WHERE owner IS NOT NULL ORDER BY owner',
        );
        return rows.map(({ owner }) => owner);
      }),
    );

  const all: string[] = [];

  /** All pages, once no part of the log is missing from them. */
  const listWhole = (): Promise<string[]> =>
    eventually('nothing is missing', LIMIT_MS, async () => {
      const { ids, missing } = await list();
      return missing === undefined ? ids : null;
    });

  test('both nodes hold shards of both databases, and sagas end in both', async () => {
    await eventually('each node has shards in each database', LIMIT_MS, async () =>
      (await owners()).every((names) => names.length === 2) ? true : null,
    );
    const ids = await startOrders(ORDERS);
    all.push(...ids);
    await ended(ids, pools);
    expect(new Set(ids.map(placeOf))).toEqual(new Set([0, 1]));
    const { ids: listed, missing } = await list();
    expect(listed).toEqual(newestFirst(all));
    expect(missing).toBeUndefined();
  });

  test('a node that is killed is replaced in both databases', async () => {
    const victim = processes.find(({ role }) => role === 'engine') as SagaxProcess;
    const ids = await startOrders(ORDERS);
    all.push(...ids);
    victim.kill('SIGKILL');
    await ended(ids, pools);
    await eventually('the other node has all shards', LIMIT_MS, async () => {
      const names = (await owners()).flat();
      return names.every((name) => !name.includes(`#${victim.pid}-`)) ? true : null;
    });
    expect((await list()).ids).toEqual(newestFirst(all));
    for (const pool of pools) await checkShards(pool);
  });

  test('one server is stopped: the other goes on, REST says what is missing; then all end', async () => {
    await second.stop();
    const ids = await startOrders(ORDERS);
    all.push(...ids);
    const here = ids.filter((id) => placeOf(id) === 0);
    await ended(here, [pools[0]]);
    const during = await list();
    expect(during.missing).toEqual([{ part: 2, parts: 2, shards: [1, 3, 5, 7] }]);
    expect(during.ids).toEqual(newestFirst(all.filter((id) => placeOf(id) === 0)));
    const result = await call(`/v1/sagas/${here[0]}/result?wait=5`);
    expect(result.status).toBe(200);
    const there = all.find((id) => placeOf(id) === 1);
    expect((await call(`/v1/sagas/${there}`)).status).toBe(503);
    const ready = await call('/readyz');
    expect([ready.status, await ready.json()]).toMatchObject([
      200,
      { checks: { database: 'ok but for part 2 of 2' } },
    ]);
    await second.start();
    await ended(ids, pools);
    expect(await listWhole()).toEqual(newestFirst(all));
    for (const pool of pools) await checkShards(pool);
  });

  test('a node that starts while one server is stopped works for the other', async () => {
    await second.stop();
    for (const one of processes.filter(({ role }) => role === 'engine')) one.kill('SIGTERM');
    const ids = await startOrders(ORDERS);
    all.push(...ids);
    await start('engine').line(/the engine runs/);
    await ended(
      ids.filter((id) => placeOf(id) === 0),
      [pools[0]],
    );
    await second.start();
    await ended(ids, pools);
    expect(await listWhole()).toEqual(newestFirst(all));
  });

  test('a list in another order is refused at start, with the remedy', async () => {
    const [a, b] = (env['SAGAX_LOG_DATABASES'] ?? '').split(',');
    const wrong = startProcess('engine', { ...env, SAGAX_LOG_DATABASES: `${b},${a}` });
    expect(await wrong.ended).toBe(78);
    expect(wrong.said()).toMatch(/TOPOLOGY_MISMATCH: .*number 1 of 2.*SAGAX_LOG_DATABASES/s);
  });
}
