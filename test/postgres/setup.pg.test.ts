/** The test run's own Postgres: a clone of the migrated template per test file. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

let db: TestDatabase;
beforeAll(async () => {
  db = await testDatabase();
});
afterAll(() => db.drop());

test('a test database is a clone of the migrated template', async () => {
  const { rows } = await db.pool.query('SELECT name FROM sagax.migrations ORDER BY number');
  expect(rows[0]).toEqual({ name: '0001_event_log' });
});
