/**
 * Puts the witness of `witness.sql` into a database, and keeps the Postgres bus from forgetting.
 *
 * Guards that it is there before the first saga: the tables must exist and be empty.
 */
import { readFile } from 'node:fs/promises';
import type pg from 'pg';

/** A group of the Postgres bus that never reads: a topic keeps what one of its groups has not read. */
const KEEPER_GROUP = 'chaos-witness';

/** @throws Error when sagas have been started already, or a participant's tables are not there yet */
export async function installWitness(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ n: string }>('SELECT count(*) AS n FROM sagax.events');
  if (rows[0]?.n !== '0') throw new Error('The witness must be installed before the first saga.');
  await pool.query(await readFile(new URL('./witness.sql', import.meta.url), 'utf8'));
  // All topics must be there by now: engine, workers and API make theirs at their start.
  await pool.query(
    `INSERT INTO sagax.bus_assignments (group_name, partition_id)
     SELECT $1, id FROM sagax.bus_partitions ON CONFLICT DO NOTHING`,
    [KEEPER_GROUP],
  );
}
