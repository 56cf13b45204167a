/**
 * Puts the witness (`witness.sql`, `witness-effects.sql`) into the databases of a log, and keeps the Postgres bus from
 * forgetting.
 *
 * Guards that it is there before the first saga: the tables must exist and be empty.
 */
import { readFile } from 'node:fs/promises';
import pg from 'pg';

/** A group of the Postgres bus that never reads: a topic keeps what one of its groups has not read. */
const KEEPER_GROUP = 'chaos-witness';

/**
 * @param logUrls all databases of the log; the first has the participants and the Postgres bus, too
 * @throws Error when sagas have been started already, or a participant's tables are not there yet
 */
export async function installWitness(logUrls: readonly string[]): Promise<void> {
  for (const [index, url] of logUrls.entries()) {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      await install(client, index === 0);
    } finally {
      await client.end();
    }
  }
}

async function install(client: pg.Client, isFirst: boolean): Promise<void> {
  const { rows } = await client.query<{ n: string }>('SELECT count(*) AS n FROM sagax.events');
  if (rows[0]?.n !== '0') throw new Error('The witness must be installed before the first saga.');
  await client.query(await readFile(new URL('./witness.sql', import.meta.url), 'utf8'));
  if (!isFirst) return;
  await client.query(await readFile(new URL('./witness-effects.sql', import.meta.url), 'utf8'));
  // All topics must be there by now: engine, workers and API make theirs at their start.
  await client.query(
    `INSERT INTO sagax.bus_assignments (group_name, partition_id)
     SELECT $1, id FROM sagax.bus_partitions ON CONFLICT DO NOTHING`,
    [KEEPER_GROUP],
  );
}
