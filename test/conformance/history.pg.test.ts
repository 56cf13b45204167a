/** Histories out of Postgres. */
import { openPostgres } from '../../engine/postgres/index.ts';
import { testDatabase } from '../support/postgres.ts';
import { historyConformance } from './history-conformance.ts';

historyConformance('postgres', async () => {
  const db = await testDatabase();
  const ports = await openPostgres({ url: db.url, shards: 1, migrate: false });
  return {
    ...ports,
    close: async () => {
      await ports.close();
      await db.drop();
    },
  };
});
