/**
 * A database of its own for a test file: a clone of the run's migrated template.
 *
 * Guards that test files can't see each other's rows, and that none is left behind.
 */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';

export interface TestDatabase {
  url: string;
  name: string;
  /** For the test's own looks into the tables; the code under test opens its own. */
  pool: pg.Pool;
  /** Ends the pool and drops the database, whoever is still connected. */
  drop(): Promise<void>;
}

/** @param options.empty an empty database in place of a clone of the migrated template */
export async function testDatabase(options: { empty?: boolean } = {}): Promise<TestDatabase> {
  const serverUrl = inject('postgresUrl');
  const name = `sagax_test_${randomBytes(6).toString('hex')}`;
  const source = options.empty === true ? 'template0' : inject('postgresTemplate');
  // FILE_COPY forces two checkpoints of the whole server; WAL_LOG is quicker for a template this small.
  await onServer(serverUrl, `CREATE DATABASE ${name} TEMPLATE ${source} STRATEGY WAL_LOG`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  const pool = new pg.Pool({ connectionString: url.toString(), max: 10 });
  // `drop` cuts the connections of clients that are idle; that is no failure of the test.
  pool.on('error', () => undefined);
  return {
    url: url.toString(),
    name,
    pool,
    drop: async () => {
      await pool.end();
      await onServer(serverUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

async function onServer(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
