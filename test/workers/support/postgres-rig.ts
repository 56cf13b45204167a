/** The store on a real Postgres, in a database of its own. */
import pg from 'pg';
import { systemClock } from '../../../engine/memory/clock.ts';
import { postgresStore, type PostgresStoreOptions } from '../../../workers/postgres/store.ts';
import type { PgTx } from '../../../workers/postgres/transaction.ts';
import { testDatabase } from '../../support/postgres.ts';
import type { StoreRig } from './stores.ts';

export interface PgRig extends StoreRig<PgTx> {
  readonly pool: pg.Pool;
  connect(options?: Partial<PostgresStoreOptions>): ReturnType<typeof postgresStore>;
}

/** @param settings e.g. `pipeline`: statements are sent ahead of the answers to those before them */
export async function postgresRig(settings: pg.PoolConfig = {}): Promise<PgRig> {
  const database = await testDatabase({ empty: true });
  const pool = new pg.Pool({ connectionString: database.url, max: 20, ...settings });
  pool.on('error', () => undefined);
  await pool.query('CREATE TABLE counters (key text PRIMARY KEY, n int NOT NULL)');
  const connect: PgRig['connect'] = (options) =>
    postgresStore({ pool, schema: 'shop', ...options });
  await connect().start();
  return {
    clock: systemClock,
    pool,
    connect,
    add: async (tx, key, by) => {
      await tx.query(
        `INSERT INTO counters AS c VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET n = c.n + excluded.n`,
        [key, by],
      );
    },
    count: async (key) => {
      const { rows } = await pool.query<{ n: number }>('SELECT n FROM counters WHERE key = $1', [
        key,
      ]);
      return rows[0]?.n ?? 0;
    },
    row: (commandId) => connect().transaction((barrier) => barrier.read(commandId)),
    letters: async () =>
      (await pool.query('SELECT 1 FROM shop.sagax_inbox_dead_letters')).rows.length,
    elapse: () => Promise.resolve(),
    close: async () => {
      await pool.end();
      await database.drop();
    },
  };
}
