/**
 * `ShardLeases` on Postgres, and the shards themselves: their number is fixed when they are first made.
 *
 * Guards I2: taking a shard bumps its epoch, and the row lock on the epoch makes that wait for appends under
 * way. Every call is a statement of its own outside of a transaction, so a stopped process holds no lock
 * that could keep another from taking over. Only the database's clock decides what has run out.
 */
import { SagaxError } from '../core/errors.ts';
import type { ShardLeases } from '../ports.ts';
import { WHOLE_LOG, type Place } from './membership.ts';
import type { Database } from './pool.ts';

/** Enough to spread over a dozen nodes; a partition with nothing to do costs next to nothing. */
export const DEFAULT_SHARD_COUNT = 16;
const MAX_SHARD_COUNT = 4_096;

/**
 * Makes the shards when the database has none, and checks their number when it has.
 * Safe to call from many processes at once. If the process dies, call it again.
 * @param wanted undefined: whatever the database has, DEFAULT_SHARD_COUNT for a new one
 * @param place which of the shards live in this database
 * @returns the number of shards of the whole log
 * @throws SagaxError TOPOLOGY_MISMATCH, CONFIG_INVALID
 */
export async function ensureShards(
  db: Database,
  wanted?: number,
  place: Place = WHOLE_LOG,
): Promise<number> {
  if (
    wanted !== undefined &&
    !(Number.isInteger(wanted) && wanted >= 1 && wanted <= MAX_SHARD_COUNT)
  ) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `The shard count is ${wanted}; it must be 1 to ${MAX_SHARD_COUNT}.`,
    );
  }
  await db.read({
    text: `INSERT INTO sagax.settings (name, value) VALUES ('shards', to_jsonb($1::int)) ON CONFLICT (name) DO NOTHING`,
    values: [wanted ?? DEFAULT_SHARD_COUNT],
  });
  const [row] = await db.read<{ count: number }>({
    text: `SELECT value::int AS count FROM sagax.settings WHERE name = 'shards'`,
  });
  const count = row?.count ?? 0;
  if (wanted !== undefined && wanted !== count) {
    throw new SagaxError(
      'TOPOLOGY_MISMATCH',
      `This database was set up with ${count} shards, the setting says ${wanted}. The count can't be changed, since ` +
        `it decides where each saga lives: set it to ${count}, or use a new database.`,
    );
  }
  // On any conflict: of two that insert at once, one may meet the other in the key of (shard, epoch) first.
  await db.read({
    text: `INSERT INTO sagax.shards (shard) SELECT generate_series($2::int, $1::int - 1, $3::int)
      ON CONFLICT DO NOTHING`,
    values: [count, place.index, place.count],
  });
  await db.read({
    text: `INSERT INTO sagax.shard_positions (shard) SELECT shard FROM sagax.shards ON CONFLICT (shard) DO NOTHING`,
  });
  return count;
}

export function postgresShardLeases(db: Database, shardCount: number): ShardLeases {
  return {
    shardCount,
    acquire: async (shard, owner, ttlMs, options) => {
      if (!Number.isInteger(shard) || shard < 0 || shard >= shardCount) {
        throw new SagaxError(
          'INTERNAL',
          `There is no shard ${shard}; there are ${shardCount}, from 0.`,
        );
      }
      const [taken] = await db.read<{ epoch: string }>({
        name: 'sagax-shard-acquire',
        text: `UPDATE sagax.shards SET epoch = epoch + 1, owner = $2,
            expires_at = clock_timestamp() + $3::float8 * interval '1 millisecond'
          WHERE shard = $1 AND ($4 OR owner IS NULL OR owner = $2 OR expires_at < clock_timestamp())
          RETURNING epoch`,
        values: [shard, owner, ttlMs, options?.steal === true],
      });
      if (taken === undefined) return null;
      // Read by a statement of its own: the one above may have waited for an append, and would still see the
      // position from before it. From here on nobody else can move it.
      const [position] = await db.read<{
        next_offset: string;
        next_seq: string;
        published_seq: string;
      }>({
        name: 'sagax-shard-position',
        text: 'SELECT next_offset, next_seq, published_seq FROM sagax.shard_positions WHERE shard = $1',
        values: [shard],
      });
      if (position === undefined)
        throw new SagaxError('INTERNAL', `Shard ${shard} has no position.`);
      return {
        shard,
        owner,
        epoch: Number(taken.epoch),
        nextOffset: BigInt(position.next_offset),
        nextSeq: Number(position.next_seq),
        publishedSeq: Number(position.published_seq),
      };
    },
    renew: async (owner, held, ttlMs) => {
      if (held.length === 0) return [];
      const rows = await db.read<{ shard: number }>({
        name: 'sagax-shard-renew',
        text: `UPDATE sagax.shards s SET expires_at = clock_timestamp() + $4::float8 * interval '1 millisecond'
          FROM unnest($2::int[], $3::bigint[]) AS held (shard, epoch)
          WHERE s.shard = held.shard AND s.epoch = held.epoch AND s.owner = $1 RETURNING s.shard`,
        values: [owner, held.map(({ shard }) => shard), held.map(({ epoch }) => epoch), ttlMs],
      });
      const kept = new Set(rows.map(({ shard }) => shard));
      return held.map(({ shard }) => shard).filter((shard) => !kept.has(shard));
    },
    release: async (shard, owner, epoch) => {
      await db.read({
        name: 'sagax-shard-release',
        text: `UPDATE sagax.shards SET owner = NULL, expires_at = NULL WHERE shard = $1 AND owner = $2 AND epoch = $3`,
        values: [shard, owner, epoch],
      });
    },
  };
}
