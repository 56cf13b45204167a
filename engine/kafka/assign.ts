/**
 * Which member of a consumer group reads which partition: even shares, and as few moves as can be.
 *
 * Guards that a member that joins or leaves moves only the partitions that it must: every move costs
 * the new owner a take-over of the shard. Pure; the group's leader runs it on what all members say.
 */

export interface GroupMemberClaim {
  memberId: string;
  topics: readonly string[];
  /** What it reads now, as `topic/partition`. A claim of several members counts for the first by id. */
  owned: readonly string[];
}

export type Assignment = Map<string, { [topic: string]: number[] }>;

/** @param partitions topic → its partitions */
export function assignSticky(
  members: readonly GroupMemberClaim[],
  partitions: ReadonlyMap<string, readonly number[]>,
): Assignment {
  const assignment: Assignment = new Map(members.map(({ memberId }) => [memberId, {}]));
  const load = new Map(members.map(({ memberId }) => [memberId, 0]));
  for (const topic of [...partitions.keys()].sort()) {
    const takers = members
      .filter((member) => member.topics.includes(topic))
      .sort((a, b) => (a.memberId < b.memberId ? -1 : 1));
    if (takers.length === 0) continue;
    assignTopic(topic, partitions.get(topic) ?? [], takers, assignment, load);
  }
  return assignment;
}

function assignTopic(
  topic: string,
  partitions: readonly number[],
  takers: readonly GroupMemberClaim[],
  assignment: Assignment,
  load: Map<string, number>,
): void {
  const free = new Set(partitions);
  const kept = new Map<string, number[]>();
  for (const { memberId, owned } of takers) {
    const mine = partitions.filter((p) => free.has(p) && owned.includes(`${topic}/${p}`));
    mine.forEach((p) => free.delete(p));
    kept.set(memberId, mine);
  }
  // Whoever holds most keeps the one more that some must have; between equals, the least loaded over all topics.
  const ranked = takers
    .map(({ memberId }) => memberId)
    .sort(
      (a, b) =>
        (kept.get(b)?.length ?? 0) - (kept.get(a)?.length ?? 0) ||
        (load.get(a) ?? 0) - (load.get(b) ?? 0),
    );
  const base = Math.floor(partitions.length / takers.length);
  const extra = partitions.length % takers.length;
  const quotas = new Map(ranked.map((memberId, rank) => [memberId, base + (rank < extra ? 1 : 0)]));
  for (const memberId of ranked) {
    const over = kept.get(memberId)?.splice(quotas.get(memberId) ?? 0) ?? [];
    over.forEach((p) => free.add(p));
  }
  const rest = [...free].sort((a, b) => a - b);
  for (const memberId of ranked) {
    const mine = kept.get(memberId) ?? [];
    mine.push(...rest.splice(0, (quotas.get(memberId) ?? 0) - mine.length));
    if (mine.length === 0) continue;
    (assignment.get(memberId) as { [topic: string]: number[] })[topic] = mine.sort((a, b) => a - b);
    load.set(memberId, (load.get(memberId) ?? 0) + mine.length);
  }
}
