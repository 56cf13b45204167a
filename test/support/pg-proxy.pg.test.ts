/** The proxy against a real Postgres and a real client: what each fault looks like from both sides. */
import { once } from 'node:events';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createPool } from '../../engine/postgres/index.ts';
import { labelOf, PgProxy, type Happened, type Plan } from './pg-proxy.ts';
import { testDatabase, type TestDatabase } from './postgres.ts';

describe('the proxy of the Postgres protocol', () => {
  let database: TestDatabase;
  let proxy: PgProxy;
  let happened: Happened[];
  const clients: pg.Client[] = [];

  beforeEach(async () => {
    database = await testDatabase({ empty: true });
    await database.pool.query('CREATE TABLE t (n int PRIMARY KEY)');
    proxy = await PgProxy.start(database.url);
    happened = [];
    proxy.onHappened = (one) => void happened.push(one);
  });
  afterEach(async () => {
    await proxy.close();
    await Promise.all(clients.splice(0).map((client) => client.end().catch(() => undefined)));
    await database.drop();
  });

  async function connected(options: pg.ClientConfig = {}): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: proxy.url,
      application_name: 'probe',
      ...options,
    });
    client.on('error', () => undefined);
    clients.push(client);
    await client.connect();
    return client;
  }
  /** Meets the first statement whose text has `words`. */
  const firstOf = (words: string, fault: NonNullable<ReturnType<Plan>>): Plan => {
    let left = 1;
    return ({ text }) => (text.includes(words) && left-- > 0 ? fault : null);
  };
  const rows = async (): Promise<number[]> =>
    (await database.pool.query<{ n: number }>('SELECT n FROM t ORDER BY n')).rows.map(({ n }) => n);
  const insert = (n: number): pg.QueryConfig => ({
    name: 'add',
    text: 'INSERT INTO t VALUES ($1)',
    values: [n],
  });
  const codes = (results: readonly PromiseSettledResult<unknown>[]): string[] =>
    results.map((one) =>
      one.status === 'fulfilled' ? 'ok' : String((one.reason as { code?: string }).code),
    );

  test('names statements, prepared ones by their text, and lets them pass', async () => {
    const client = await connected();
    for (const n of [1, 2, 3]) await client.query(insert(n));
    const sum = await client.query('SELECT sum(n)::int AS sum FROM t');
    expect(sum.rows).toEqual([{ sum: 6 }]);
    expect(proxy.statements.get(labelOf('INSERT INTO t VALUES ($1)'))?.count).toBe(3);
    expect(labelOf('SELECT  1\n FROM t5')).toBe(labelOf('SELECT 22 FROM t6'));
    expect(labelOf('SELECT 1 FROM t')).not.toBe(labelOf('SELECT 1 FROM u'));
  });

  test.each(['40001', '40P01', '55P03', '57014'])(
    'an injected %s stands for the statement, which is not executed; the connection lives on',
    async (code) => {
      const client = await connected();
      await client.query(insert(1));
      proxy.plan = firstOf('INSERT', { kind: 'error', code });
      await expect(client.query(insert(2))).rejects.toMatchObject({ code });
      await client.query(insert(3));
      expect(await rows()).toEqual([1, 3]);
      expect(happened).toMatchObject([
        { fault: { code }, outcome: 'done', statement: { name: 'add', application: 'probe' } },
      ]);
    },
  );

  test('an error at the first use of a prepared statement leaves it prepared, as a real one does', async () => {
    const client = await connected();
    proxy.plan = firstOf('INSERT', { kind: 'error', code: '57014' });
    await expect(client.query(insert(1))).rejects.toMatchObject({ code: '57014' });
    await client.query(insert(1));
    expect(await rows()).toEqual([1]);
    const { rows: prepared } = await client.query<{ name: string }>(
      'SELECT name FROM pg_prepared_statements',
    );
    expect(prepared).toEqual([{ name: 'add' }]);
  });

  test('within a transaction it aborts it; at COMMIT it has rolled back', async () => {
    const client = await connected();
    proxy.plan = firstOf('VALUES ($1)', { kind: 'error', code: '40P01' });
    await client.query('BEGIN');
    await expect(client.query(insert(1))).rejects.toMatchObject({ code: '40P01' });
    await expect(client.query('SELECT 1')).rejects.toMatchObject({ code: '25P02' });
    expect((await client.query('COMMIT')).command).toBe('ROLLBACK');

    await client.query('BEGIN');
    await client.query(insert(2));
    proxy.plan = firstOf('COMMIT', { kind: 'error', code: '40001' });
    await expect(client.query('COMMIT')).rejects.toMatchObject({ code: '40001' });
    await client.query(insert(3));
    expect(await rows()).toEqual([3]);
  });

  test('an error at ROLLBACK of an aborted transaction leaves it aborted', async () => {
    const client = await connected();
    await client.query('BEGIN');
    await expect(client.query('SELECT 1/0')).rejects.toMatchObject({ code: '22012' });
    proxy.plan = firstOf('ROLLBACK', { kind: 'error', code: '57014' });
    await expect(client.query('ROLLBACK')).rejects.toMatchObject({ code: '57014' });
    await expect(client.query('SELECT 1')).rejects.toMatchObject({ code: '25P02' });
    await client.query('ROLLBACK');
    await client.query(insert(1));
    expect(await rows()).toEqual([1]);
  });

  test('statements sent ahead: the error takes its own place in the order of answers', async () => {
    const client = await connected({ pipeline: true });
    proxy.plan = firstOf('SELECT 2', { kind: 'error', code: '55P03' });
    const results = await Promise.allSettled([
      client.query('BEGIN'),
      client.query(insert(1)),
      client.query('SELECT 2'),
      client.query(insert(3)),
      client.query('ROLLBACK'),
      client.query(insert(4)),
    ]);
    expect(codes(results)).toEqual(['ok', 'ok', '55P03', '25P02', 'ok', 'ok']);
    expect(await rows()).toEqual([4]);
  });

  test('statements sent ahead: behind 57P01 nothing is executed, before it everything', async () => {
    const client = await connected({ pipeline: true });
    proxy.plan = firstOf('SELECT 2', { kind: 'fatal', code: '57P01' });
    const results = await Promise.allSettled([
      client.query(insert(1)),
      client.query('SELECT 2'),
      client.query(insert(3)),
    ]);
    expect(codes(results).slice(0, 2)).toEqual(['ok', '57P01']);
    expect(results[2]?.status).toBe('rejected');
    expect(await rows()).toEqual([1]);
  });

  test('a connection that is cut has not executed the statement', async () => {
    const client = await connected();
    proxy.plan = firstOf('INSERT', { kind: 'cut' });
    await expect(client.query(insert(1))).rejects.toThrow(/ECONNRESET|terminated/);
    expect(await rows()).toEqual([]);
    expect(happened.map(({ outcome }) => outcome)).toEqual(['done']);
  });

  test('a reply that is lost was committed; one within a transaction was not; an error is no reply to lose', async () => {
    const first = await connected();
    proxy.plan = firstOf('INSERT', { kind: 'lose-reply' });
    await expect(first.query(insert(1))).rejects.toThrow(/ECONNRESET|terminated/);
    expect(await rows()).toEqual([1]);

    const second = await connected({ pipeline: true });
    proxy.plan = firstOf('VALUES ($1)', { kind: 'lose-reply' });
    const results = await Promise.allSettled([second.query('BEGIN'), second.query(insert(2))]);
    expect(codes(results)[0]).toBe('ok');
    expect(results[1]?.status).toBe('rejected');
    expect(await rows()).toEqual([1]);

    const third = await connected();
    proxy.plan = firstOf('INSERT', { kind: 'lose-reply' });
    await expect(third.query(insert(1))).rejects.toMatchObject({ code: '23505' });

    const fourth = await connected();
    await fourth.query('BEGIN');
    await fourth.query(insert(5));
    proxy.plan = firstOf('COMMIT', { kind: 'lose-reply' });
    await expect(fourth.query('COMMIT')).rejects.toThrow(/ECONNRESET|terminated/);
    expect(await rows()).toEqual([1, 5]);
    expect(happened.map(({ outcome }) => outcome)).toEqual([
      'committed',
      'uncommitted',
      'refused',
      'committed',
    ]);
  });

  test('a silent line: the client gives up by its own limit, the server is never told', async () => {
    const client = await connected({ query_timeout: 200 });
    await client.query('BEGIN');
    await client.query(insert(1));
    const pid = (await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]
      ?.pid;
    proxy.plan = firstOf('SELECT 2', { kind: 'go-silent' });
    await expect(client.query('SELECT 2')).rejects.toThrow('Query read timeout');
    void client.end();
    const state = await database.pool.query('SELECT state FROM pg_stat_activity WHERE pid = $1', [
      pid,
    ]);
    expect(state.rows).toEqual([{ state: 'idle in transaction' }]);
    expect(proxy.sessions().filter(({ isSilent }) => isSilent)).toHaveLength(1);
  });

  test('a black hole takes connections and never answers', async () => {
    proxy.blackHole = true;
    await expect(connected({ connectionTimeoutMillis: 200 })).rejects.toThrow(/timeout/);
    proxy.blackHole = false;
    await (await connected()).query(insert(1));
  });

  test('a slow line keeps the order of bytes, and of the end behind them', async () => {
    const delays = [30, 0, 10, 20, 0];
    let turn = 0;
    proxy.delayMs = () => delays[turn++ % delays.length] as number;
    const client = await connected({ pipeline: true });
    const began = performance.now();
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        client.query<{ n: number; wide: string }>(`SELECT ${n} AS n, repeat('x', 100000) AS wide`),
      ),
    );
    expect(results.map(({ rows: [row] }) => row?.n)).toEqual(
      Array.from({ length: 20 }, (_, n) => n),
    );
    expect(performance.now() - began).toBeGreaterThan(30);
    proxy.plan = firstOf('INSERT', { kind: 'fatal', code: '57P01' });
    await expect(client.query(insert(1))).rejects.toMatchObject({ code: '57P01' });
  });

  test('a server process that is stopped: the client gives up, and a late answer reaches nobody', async () => {
    const pool = createPool({ url: proxy.url, max: 1, statementTimeoutMs: 300, pipeline: true });
    // The pool's limit is 5 s above the statement's; a client of its own has a shorter one.
    const client = await connected({ query_timeout: 300 });
    const pid = (await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]
      ?.pid as number;
    process.kill(pid, 'SIGSTOP');
    try {
      await expect(client.query('SELECT 1')).rejects.toThrow('Query read timeout');
      expect((await pool.query('SELECT 2 AS two')).rows).toEqual([{ two: 2 }]);
      const ended = once(client, 'end');
      void client.end();
      await ended;
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    expect((await pool.query('SELECT 3 AS three')).rows).toEqual([{ three: 3 }]);
    await pool.end();
  });
});
