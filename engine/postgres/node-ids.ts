/**
 * `NodeIdLeases` on Postgres: who may put which node id into Snowflake ids, and up to which time.
 *
 * Guards I13: `last_ms` is a time that no id of the holder reaches, kept ahead of it by every renewal, and
 * the next holder gets the node id only when the database's clock is past it. A holder that was stopped
 * and wakes up late finds its own deadline passed before it can make an id that the next one makes too.
 */
import { SagaxError } from '../core/errors.ts';
import { MAX_NODE_ID } from '../core/ids.ts';
import type { NodeIdLeases } from '../ports.ts';
import type { Database } from './pool.ts';

const NOW_MS = '(extract(epoch FROM clock_timestamp()) * 1000)::bigint';
/** All ids may be locked by others that acquire at the same moment; they are done within milliseconds. */
const ACQUIRE_ATTEMPTS = 5;

/**
 * The row that is longest unused is taken, so that clocks which are a little off never meet. SKIP LOCKED: others
 * that acquire at this moment take other rows. The update's own condition is checked again on the locked row.
 */
const ACQUIRE_SQL = `
WITH pick AS MATERIALIZED (
  SELECT node_id, last_ms FROM sagax.node_ids
  WHERE (owner IS NULL OR expires_at < clock_timestamp()) AND last_ms < ${NOW_MS}
  ORDER BY last_ms, node_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE sagax.node_ids n SET epoch = n.epoch + 1, owner = $1,
  expires_at = clock_timestamp() + $2::float8 * interval '1 millisecond',
  last_ms = greatest(n.last_ms, ${NOW_MS} + ceil($2::float8)::bigint)
FROM pick WHERE n.node_id = pick.node_id
RETURNING n.node_id, n.epoch, pick.last_ms AS start_above_ms`;

export function postgresNodeIds(db: Database): NodeIdLeases {
  return {
    acquire: async (owner, ttlMs) => {
      for (let attempt = 1; attempt <= ACQUIRE_ATTEMPTS; attempt++) {
        const [row] = await db.read<{ node_id: number; epoch: string; start_above_ms: string }>({
          text: ACQUIRE_SQL,
          values: [owner, ttlMs],
        });
        if (row !== undefined) {
          return {
            nodeId: row.node_id,
            epoch: Number(row.epoch),
            startAboveMs: Number(row.start_above_ms),
          };
        }
      }
      throw new SagaxError(
        'NODE_IDS_EXHAUSTED',
        `All ${MAX_NODE_ID + 1} Snowflake node ids are leased or not yet free again. Stop processes that are not ` +
          'needed, or wait until the leases of dead ones have run out.',
      );
    },
    renew: async (nodeId, epoch, ttlMs) => {
      const rows = await db.read({
        name: 'sagax-node-id-renew',
        text: `UPDATE sagax.node_ids SET expires_at = clock_timestamp() + $3::float8 * interval '1 millisecond',
            last_ms = greatest(last_ms, ${NOW_MS} + ceil($3::float8)::bigint)
          WHERE node_id = $1 AND epoch = $2 AND owner IS NOT NULL RETURNING 1`,
        values: [nodeId, epoch, ttlMs],
      });
      return rows.length === 1;
    },
    release: async (nodeId, epoch, lastMs) => {
      await db.read({
        name: 'sagax-node-id-release',
        text: `UPDATE sagax.node_ids SET owner = NULL, expires_at = NULL, last_ms = $3
          WHERE node_id = $1 AND epoch = $2 AND owner IS NOT NULL`,
        values: [nodeId, epoch, Math.ceil(lastMs)],
      });
    },
  };
}
