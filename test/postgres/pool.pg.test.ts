/** Connections that die while nobody waits for an answer on them. */
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { createPool } from '../../engine/postgres/index.ts';
import { testDatabase } from '../support/postgres.ts';

test('a connection that is ended between two statements of its holder does not end the process', async () => {
  const db = await testDatabase();
  const pool = createPool({ url: db.url });
  const client = await pool.connect();
  try {
    // Nobody else listens while a holder has it: unheard, the error would be thrown out of the event loop.
    expect(client.listenerCount('error')).toBeGreaterThan(0);
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    const ended = once(client, 'end');
    await db.pool.query('SELECT pg_terminate_backend($1)', [rows[0]?.pid]);
    await ended.catch(() => undefined);
  } finally {
    client.release(true);
  }
  expect((await pool.query<{ one: number }>('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
  await db.drop();
});
