/** The Postgres bus against a real Postgres; odd values are put by SQL. */
import { afterAll, beforeAll } from 'vitest';
import { createPostgresBus } from '../../engine/postgres/bus.ts';
import type { Bus } from '../../engine/ports.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { busConformance } from './bus-conformance.ts';
import { spawnForeignMember } from './bus-foreign-member.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

busConformance('postgres', () => {
  const opened: Bus[] = [];
  return Promise.resolve({
    open: () => {
      const bus = createPostgresBus({ url: database.url });
      opened.push(bus);
      return bus;
    },
    publishRaw: async (topic, partition, value) => {
      await database.pool.query(
        `WITH moved AS (
           UPDATE sagax.bus_partitions SET next_offset = next_offset + 1
            WHERE topic = $1 AND partition = $2 RETURNING id, next_offset - 1 AS "offset"
         )
         INSERT INTO sagax.bus_messages (partition_id, "offset", key, headers, value)
         SELECT id, "offset", 'raw', '{}', $3 FROM moved`,
        [topic, partition, value?.toString('utf8') ?? null],
      );
    },
    spawnMember: (group, topic) =>
      Promise.resolve(
        spawnForeignMember({ kind: 'postgres', databaseUrl: database.url, group, topic }),
      ),
    close: async () => {
      await Promise.all(opened.map((bus) => bus.close()));
    },
  });
});
