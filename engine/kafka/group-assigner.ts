/**
 * The consumer group's assigner, as kafkajs wants it: even shares that stay where they are (`assign.ts`).
 *
 * Guards one more thing: `protocol` is called at every attempt to join, so counting the calls tells
 * whether a generation may have gone by in which another member owned what comes back to us.
 */
import { AssignerProtocol, type PartitionAssigner } from 'kafkajs';
import { assignSticky, type GroupMemberClaim } from './assign.ts';

export interface AssignerHooks {
  /** What this member reads now, as `topic/partition`; asked for at each attempt to join. */
  owned: () => string[];
}

interface ClusterView {
  findTopicPartitionMetadata(topic: string): { partitionId: number }[];
}

export function groupAssigner(hooks: AssignerHooks): PartitionAssigner {
  const { MemberMetadata, MemberAssignment } = AssignerProtocol;
  return ({ cluster }) => ({
    name: 'sagax-sticky',
    version: 0,
    protocol: ({ topics }) => ({
      name: 'sagax-sticky',
      metadata: MemberMetadata.encode({
        version: 0,
        topics,
        userData: Buffer.from(JSON.stringify(hooks.owned())),
      }),
    }),
    assign: ({ members, topics }) => {
      const view = cluster as unknown as ClusterView;
      const partitions = new Map(
        topics.map((topic) => [
          topic,
          view.findTopicPartitionMetadata(topic).map(({ partitionId }) => partitionId),
        ]),
      );
      const claims = members.map(({ memberId, memberMetadata }): GroupMemberClaim => {
        const metadata = MemberMetadata.decode(memberMetadata);
        return {
          memberId,
          topics: metadata?.topics ?? [],
          owned: parseOwned(metadata?.userData),
        };
      });
      const assignment = assignSticky(claims, partitions);
      return Promise.resolve(
        [...assignment].map(([memberId, share]) => ({
          memberId,
          memberAssignment: MemberAssignment.encode({
            version: 0,
            assignment: share,
            userData: Buffer.alloc(0),
          }),
        })),
      );
    },
  });
}

function parseOwned(userData: Buffer | null | undefined): string[] {
  try {
    const owned: unknown = JSON.parse(userData?.toString('utf8') ?? '[]');
    return Array.isArray(owned) ? owned.filter((item) => typeof item === 'string') : [];
  } catch {
    // A member of another version: its claim is unknown, and it gets its share like a new one.
    return [];
  }
}
