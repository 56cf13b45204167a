/**
 * The statements by which members of a consumer group share partitions; every lease by the database's clock.
 *
 * Guards that a partition has one owner at a time: taking it bumps its epoch, and whatever the former
 * owner still says (a renewal, a commit) is for another epoch and changes nothing.
 */
import type { Database } from './pool.ts';

export interface Held {
  group: string;
  partitionId: number;
  epoch: string;
  /** Next offset that the group has not done; null: nothing to say. */
  commit: bigint | null;
}

export interface GroupView {
  /** Live members, sorted. */
  members: string[];
  /** Whether some partition has no live owner. */
  free: boolean;
}

export interface Taken {
  partitionId: number;
  epoch: string;
  committed: bigint | null;
}

export class BusGroups {
  readonly #database: Database;
  readonly #leaseMs: number;

  constructor(database: Database, leaseMs: number) {
    this.#database = database;
    this.#leaseMs = leaseMs;
  }

  /** Makes the group's rows for partitions it did not know: from now on their messages are kept for it. */
  async register(group: string, partitionIds: readonly number[]): Promise<void> {
    await this.#database.write({
      text: `INSERT INTO sagax.bus_assignments (group_name, partition_id)
             SELECT $1, id FROM unnest($2::int[]) AS p (id) ORDER BY id
             ON CONFLICT DO NOTHING`,
      values: [group, partitionIds],
    });
  }

  /**
   * Says that the members live, where they can be rung and that their partitions are held, and keeps what they committed.
   * @returns those of `held` that are still theirs, as `group/partitionId/epoch`
   */
  async renew(
    members: readonly { group: string; member: string }[],
    held: readonly Held[],
    bell: string | null,
  ): Promise<Set<string>> {
    const { rows } = await this.#database.write<{ held: string }>({
      name: 'bus-renew',
      text: `WITH alive AS (
               INSERT INTO sagax.bus_members (group_name, member, expires_at, bell)
               SELECT g, m, clock_timestamp() + $3 * interval '1 ms', $8
                 FROM unnest($1::text[], $2::text[]) AS a (g, m)
               ON CONFLICT (group_name, member) DO UPDATE SET expires_at = excluded.expires_at, bell = excluded.bell
             )
             UPDATE sagax.bus_assignments a
                SET expires_at = clock_timestamp() + $3 * interval '1 ms',
                    committed = greatest(a.committed, h.committed)
               FROM unnest($4::text[], $5::int[], $6::bigint[], $7::bigint[])
                    AS h (g, id, epoch, committed)
              WHERE a.group_name = h.g AND a.partition_id = h.id AND a.epoch = h.epoch
                AND a.owner IS NOT NULL
             RETURNING a.group_name || '/' || a.partition_id || '/' || a.epoch AS held`,
      values: [
        members.map(({ group }) => group),
        members.map(({ member }) => member),
        this.#leaseMs,
        ...heldValues(held),
        bell,
      ],
    });
    return new Set(rows.map((row) => row.held));
  }

  /** One look at all groups of this process. */
  async view(groups: readonly string[]): Promise<Map<string, GroupView>> {
    const rows = await this.#database.read<{ g: string; members: string[]; free: boolean }>({
      name: 'bus-view',
      text: `SELECT g,
                    ARRAY(SELECT m.member FROM sagax.bus_members m
                           WHERE m.group_name = g AND m.expires_at > clock_timestamp()
                           ORDER BY m.member) AS members,
                    EXISTS (SELECT FROM sagax.bus_assignments a
                             WHERE a.group_name = g
                               AND (a.owner IS NULL OR a.expires_at < clock_timestamp())) AS free
               FROM unnest($1::text[]) AS g`,
      values: [groups],
    });
    return new Map(rows.map(({ g, members, free }) => [g, { members, free }]));
  }

  /** Takes at most `limit` of the partitions that have no live owner. */
  async take(
    group: string,
    member: string,
    partitionIds: readonly number[],
    limit: number,
  ): Promise<Taken[]> {
    const { rows } = await this.#database.write<{
      partition_id: number;
      epoch: string;
      committed: string | null;
    }>({
      name: 'bus-take',
      text: `WITH free AS (
               SELECT partition_id FROM sagax.bus_assignments
                WHERE group_name = $1 AND partition_id = ANY ($3::int[])
                  AND (owner IS NULL OR expires_at < clock_timestamp())
                ORDER BY partition_id LIMIT $4
                FOR NO KEY UPDATE SKIP LOCKED
             )
             UPDATE sagax.bus_assignments a
                SET owner = $2, epoch = a.epoch + 1,
                    expires_at = clock_timestamp() + $5 * interval '1 ms'
               FROM free
              WHERE a.group_name = $1 AND a.partition_id = free.partition_id
             RETURNING a.partition_id, a.epoch, a.committed`,
      values: [group, member, partitionIds, limit, this.#leaseMs],
    });
    return rows.map((row) => ({
      partitionId: row.partition_id,
      epoch: row.epoch,
      committed: row.committed === null ? null : BigInt(row.committed),
    }));
  }

  /** Gives partitions back, with what was committed; those that are no longer held are left alone. */
  async release(held: readonly Held[]): Promise<void> {
    if (held.length === 0) return;
    await this.#database.write({
      name: 'bus-release',
      text: `UPDATE sagax.bus_assignments a
                SET owner = NULL, expires_at = NULL, committed = greatest(a.committed, h.committed)
               FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[])
                    AS h (g, id, epoch, committed)
              WHERE a.group_name = h.g AND a.partition_id = h.id AND a.epoch = h.epoch`,
      values: heldValues(held),
    });
  }

  /** Takes a member out, and those that have been dead for long. */
  async leave(group: string, member: string): Promise<void> {
    await this.#database.write({
      text: `DELETE FROM sagax.bus_members
              WHERE group_name = $1
                AND (member = $2 OR expires_at < clock_timestamp() - interval '1 minute')`,
      values: [group, member],
    });
  }
}

export function heldKey({ group, partitionId, epoch }: Held): string {
  return `${group}/${partitionId}/${epoch}`;
}

function heldValues(held: readonly Held[]): unknown[] {
  return [
    held.map(({ group }) => group),
    held.map(({ partitionId }) => partitionId),
    held.map(({ epoch }) => epoch),
    held.map(({ commit }) => commit?.toString() ?? null),
  ];
}

/** How many of `partitions` the member should have: even shares, the one more for those that come first. */
export function quota(partitions: number, members: readonly string[], member: string): number {
  const rank = members.indexOf(member);
  if (rank < 0) return 0;
  const extra = rank < partitions % members.length ? 1 : 0;
  return Math.floor(partitions / members.length) + extra;
}
