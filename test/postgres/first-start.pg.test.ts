/** The first start of a deployment: many processes come up at once on a database that has no shards yet. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createPool, Database } from '../../engine/postgres/index.ts';
import { ensureShards } from '../../engine/postgres/shard-leases.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

/** Two must meet within the insert of one row: with fewer rounds they seldom do. */
const ROUNDS = 60;
const PROCESSES = 12;
const SHARDS = 256;
let db: TestDatabase;
beforeAll(async () => {
  db = await testDatabase();
});
afterAll(() => db.drop());

test('all of them get their shards, whoever makes them', { timeout: 120_000 }, async () => {
  const pool = createPool({ url: db.url, max: PROCESSES });
  const database = new Database(pool);
  const starts = (): Promise<number>[] =>
    Array.from({ length: PROCESSES }, () => ensureShards(database, SHARDS));
  try {
    for (let round = 0; round < ROUNDS; round++) {
      await db.pool.query('TRUNCATE sagax.shards CASCADE');
      expect(new Set(await Promise.all(starts()))).toEqual(new Set([SHARDS]));
    }
    const { rows } = await db.pool.query<{ n: string }>(
      'SELECT count(*) AS n FROM sagax.shards JOIN sagax.shard_positions USING (shard)',
    );
    expect(rows).toEqual([{ n: String(SHARDS) }]);
  } finally {
    await pool.end();
  }
});
