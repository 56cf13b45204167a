/** Connections that die while nobody waits for an answer on them, and such as are of no use any more. */
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { createPool, Database, openPostgres } from '../../engine/postgres/index.ts';
import { PgProxy } from '../support/pg-proxy.ts';
import { testDatabase } from '../support/postgres.ts';

test('a connection that is ended between two statements of its holder does not end the process', async () => {
  const db = await testDatabase();
  const pool = createPool({ url: db.url });
  const client = await pool.connect();
  try {
    // Nobody else listens while a holder has it: unheard, the error would be thrown out of the event loop.
    expect(client.listenerCount('error')).toBeGreaterThan(0);
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    // The error comes first, perhaps before anybody awaits the end.
    const ended = once(client, 'end').catch(() => undefined);
    await db.pool.query('SELECT pg_terminate_backend($1)', [rows[0]?.pid]);
    await ended;
  } finally {
    client.release(true);
  }
  expect((await pool.query<{ one: number }>('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
  await db.drop();
});

test('when one line has died without a word, the idle ones beside it cost nobody the time limit again', async () => {
  const db = await testDatabase();
  const proxy = await PgProxy.start(db.url);
  // The client's limit is 5 s above the server's.
  const pool = createPool({ url: proxy.url, statementTimeoutMs: 100 });
  const database = new Database(pool);
  try {
    const one = { text: 'SELECT 1 AS one, pg_sleep(0.05)' };
    await Promise.all([1, 2, 3].map(() => database.read(one)));
    expect(pool.idleCount).toBe(3);
    for (const session of proxy.sessions()) session.goSilent();
    await expect(database.read(one)).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    const began = performance.now();
    expect(await database.read<{ one: number }>(one)).toMatchObject([{ one: 1 }]);
    expect(performance.now() - began).toBeLessThan(4_000);
  } finally {
    await pool.end();
    await proxy.close();
    await db.drop();
  }
});

test('a connection whose transaction can not be rolled back is not given to the next one', async () => {
  const db = await testDatabase();
  const proxy = await PgProxy.start(db.url);
  const ports = await openPostgres({ url: proxy.url, shards: 2, migrate: false, max: 1 });
  // A week that is missing is made, in a transaction, over the one connection that there is.
  const { rows } = await db.pool.query<{ name: string }>(
    `SELECT max(c.relname) AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'sagax.snapshots'::regclass AND c.relname ~ '[0-9]$'`,
  );
  await db.pool.query(`DROP TABLE sagax.${rows[0]?.name}`);
  const left = new Set(['SELECT pg_advisory_xact_lock($1)', 'ROLLBACK']);
  proxy.plan = ({ text }) => (left.delete(text) ? { kind: 'error', code: '57014' } : null);
  try {
    await expect(ports.maintain()).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(left.size).toBe(0);
    expect(await ports.shardLeases.acquire(0, 'me', 60_000)).toMatchObject({ shard: 0 });
    expect((await ports.maintain()).created).toEqual([rows[0]?.name]);
  } finally {
    await ports.close();
    await proxy.close();
    await db.drop();
  }
});

test('a connection that stands in an aborted transaction costs one call, not all that follow', async () => {
  const db = await testDatabase();
  const pool = createPool({ url: db.url, max: 1 });
  const database = new Database(pool);
  try {
    const client = await pool.connect();
    await client.query('BEGIN');
    await expect(client.query('SELECT 1 / 0')).rejects.toMatchObject({ code: '22012' });
    client.release();
    const one = { text: 'SELECT 1 AS one' };
    await expect(database.write(one)).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(await database.read(one)).toEqual([{ one: 1 }]);
  } finally {
    await pool.end();
    await db.drop();
  }
});
