/**
 * Topics of the Postgres bus: made with their partitions, known by name and by the ids of partitions.
 *
 * Guards that a topic's partition count is fixed when it is made, and that nothing is sent to a
 * partition that is not there.
 */
import { SagaxError } from '../core/errors.ts';
import type { TopicSpec } from '../ports.ts';
import type { Database } from './pool.ts';

export class BusTopics {
  readonly #database: Database;
  /** Topic → ids by partition. Topics never change, so what is known stays true. */
  readonly #known = new Map<string, readonly number[]>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** @throws SagaxError TOPOLOGY_MISMATCH */
  async ensure(specs: readonly TopicSpec[]): Promise<void> {
    // In the order of names, so that two processes that start at once don't wait for each other in a ring.
    const sorted = [...specs].sort((a, b) => (a.topic < b.topic ? -1 : 1));
    for (const { topic, partitions } of sorted) {
      const { rows } = await this.#database.write<{ found: number }>({
        text: `WITH made AS (
                 INSERT INTO sagax.bus_topics (topic, partitions) VALUES ($1, $2)
                 ON CONFLICT (topic) DO NOTHING RETURNING topic, partitions
               ), filled AS (
                 INSERT INTO sagax.bus_partitions (topic, partition)
                 SELECT topic, generate_series(0, partitions - 1) FROM made
               )
               SELECT partitions AS found FROM made
               UNION ALL SELECT partitions FROM sagax.bus_topics WHERE topic = $1`,
        values: [topic, partitions],
      });
      // No row at all: another process made it in between, after this statement's snapshot.
      const found = rows[0]?.found ?? (await this.ids(topic)).length;
      if (found !== partitions) throw mismatch(topic, found, partitions);
    }
  }

  /** Ids of the topic's partitions, by partition; empty when there is no such topic. */
  async ids(topic: string): Promise<readonly number[]> {
    const known = this.#known.get(topic);
    if (known !== undefined) return known;
    const rows = await this.#database.read<{ id: number }>({
      name: 'bus-topic-ids',
      text: 'SELECT id FROM sagax.bus_partitions WHERE topic = $1 ORDER BY partition',
      values: [topic],
    });
    const ids = rows.map(({ id }) => id);
    if (ids.length > 0) this.#known.set(topic, ids);
    return ids;
  }

  /** @returns null when there is no such topic or partition, or nobody could be asked */
  async find(topic: string, partition: number): Promise<number | null> {
    const id = this.#idOf(topic, partition);
    return id ?? (await this.ids(topic).catch(() => []))[partition] ?? null;
  }

  /** @returns undefined for a topic that was not asked for yet, and for a partition that is not there */
  #idOf(topic: string, partition: number): number | undefined {
    return this.#known.get(topic)?.[partition];
  }

  /** @throws SagaxError TOPOLOGY_MISMATCH when there is no such topic or partition */
  async id(topic: string, partition: number): Promise<number> {
    const id = this.#idOf(topic, partition) ?? (await this.ids(topic))[partition];
    if (id !== undefined) return id;
    throw new SagaxError(
      'TOPOLOGY_MISMATCH',
      `Topic ${topic} has no partition ${partition}. Make it with ensureTopics first, and compare the ` +
        'partition count that this process was set up with to the topic.',
    );
  }

  async endOffsets(topic: string): Promise<Map<number, bigint>> {
    const rows = await this.#database.read<{ partition: number; next_offset: string }>({
      name: 'bus-end-offsets',
      text: `SELECT partition, next_offset FROM sagax.bus_partitions WHERE topic = $1 ORDER BY partition`,
      values: [topic],
    });
    return new Map(rows.map((row) => [row.partition, BigInt(row.next_offset)]));
  }
}

function mismatch(topic: string, found: number, wanted: number): SagaxError {
  return new SagaxError(
    'TOPOLOGY_MISMATCH',
    `Topic ${topic} has ${found} partitions, and ${wanted} are wanted. Set the partition count to ${found}, ` +
      'or use another topic prefix: adding partitions to a topic in use moves keys to other partitions.',
  );
}
