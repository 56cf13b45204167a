/**
 * Retention of the Postgres bus: deletes messages that every group has done, in bounded chunks.
 *
 * Guards that an unread message is never deleted: a group knows a topic from its first subscription on.
 * Only a topic that no group has ever read (domain events nobody listens to) is cut by age.
 */
import type { Database } from './pool.ts';

const DEFAULT_CHUNK = 5_000;
/** As Kafka's default: seven days. */
const UNHEARD_RETENTION_MS = 7 * 86_400_000;

/**
 * Does nothing while another process is at it, which would delete the same ones.
 * @returns messages deleted; as many as `limit` means that there may be more
 */
export async function trimBus(database: Database, limit: number = DEFAULT_CHUNK): Promise<number> {
  const { rows } = await database.write<{ deleted: string }>({
    name: 'bus-trim',
    text: `WITH done AS (
             SELECT p.id, g.committed AS below, g.committed IS NULL AND g.groups = 0 AS unheard
               FROM (SELECT pg_try_advisory_xact_lock(hashtext('sagax.bus_trim')) AS alone) t
               JOIN sagax.bus_partitions p ON t.alone
              CROSS JOIN LATERAL (
                SELECT count(*) AS groups,
                       CASE WHEN bool_and(a.committed IS NOT NULL) THEN min(a.committed) END AS committed
                  FROM sagax.bus_assignments a WHERE a.partition_id = p.id
              ) g
           ), old AS (
             SELECT m.partition_id, m."offset"
               FROM done
              CROSS JOIN LATERAL (
                SELECT partition_id, "offset" FROM sagax.bus_messages m
                 WHERE m.partition_id = done.id
                   AND (m."offset" < done.below
                        OR (done.unheard AND m.at < clock_timestamp() - $2 * interval '1 ms'))
                 ORDER BY "offset" LIMIT $1
              ) m
              LIMIT $1
           ), deleted AS (
             DELETE FROM sagax.bus_messages m USING old
              WHERE m.partition_id = old.partition_id AND m."offset" = old."offset"
             RETURNING 1
           )
           SELECT count(*) AS deleted FROM deleted`,
    values: [limit, UNHEARD_RETENTION_MS],
  });
  return Number(rows[0]?.deleted ?? 0);
}

/** Forgets a group for good: what only it had not read may be deleted. @returns false when it has live members. */
export async function forgetGroup(database: Database, group: string): Promise<boolean> {
  const { rows } = await database.write<{ live: boolean }>({
    text: `WITH live AS (
             SELECT EXISTS (SELECT FROM sagax.bus_members
                             WHERE group_name = $1 AND expires_at > clock_timestamp()) AS live
           ), forgotten AS (
             DELETE FROM sagax.bus_assignments WHERE group_name = $1 AND NOT (SELECT live FROM live)
           )
           SELECT live FROM live`,
    values: [group],
  });
  return rows[0]?.live === false;
}
