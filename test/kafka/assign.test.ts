/** Shares of a consumer group: complete, even, and moved as little as can be. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { assignSticky, type Assignment, type GroupMemberClaim } from '../../engine/kafka/assign.ts';

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const owned = (assignment: Assignment, memberId: string): string[] =>
  Object.entries(assignment.get(memberId) ?? {}).flatMap(([topic, partitions]) =>
    partitions.map((partition) => `${topic}/${partition}`),
  );

it('gives each partition to one member, in even shares, and moves only what must move', () => {
  const memberIds = fc.uniqueArray(fc.stringMatching(/^[a-z]{1,4}$/), {
    minLength: 1,
    maxLength: 7,
  });
  fc.assert(
    fc.property(memberIds, memberIds, fc.integer({ min: 1, max: 40 }), (before, after, count) => {
      const partitions = new Map([['t', range(count)]]);
      const claims = (ids: string[], from: Assignment | null): GroupMemberClaim[] =>
        ids.map((memberId) => ({
          memberId,
          topics: ['t'],
          owned: from === null ? [] : owned(from, memberId),
        }));
      const first = assignSticky(claims(before, null), partitions);
      const second = assignSticky(claims(after, first), partitions);
      for (const [assignment, ids] of [
        [first, before],
        [second, after],
      ] as const) {
        const all = ids.flatMap((memberId) => owned(assignment, memberId));
        expect(all.length).toBe(count);
        expect(new Set(all).size).toBe(count);
        const sizes = ids.map((memberId) => owned(assignment, memberId).length);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }
      // Whoever stays keeps all that its share allows.
      const floor = Math.floor(count / after.length);
      for (const memberId of after.filter((id) => before.includes(id))) {
        const had = owned(first, memberId);
        const kept = owned(second, memberId).filter((partition) => had.includes(partition));
        expect(kept.length).toBeGreaterThanOrEqual(Math.min(had.length, floor));
      }
    }),
  );
});

it('gives a topic only to those that subscribe to it, and balances over topics', () => {
  const assignment = assignSticky(
    [
      { memberId: 'a', topics: ['x', 'y'], owned: [] },
      { memberId: 'b', topics: ['y', 'z'], owned: [] },
    ],
    new Map([
      ['x', [0, 1]],
      ['y', [0]],
      ['z', [0, 1]],
    ]),
  );
  expect(assignment.get('a')).toMatchObject({ x: [0, 1] });
  expect(assignment.get('b')).toMatchObject({ z: [0, 1] });
});

it('settles claims of two members on the same partition', () => {
  const claims = ['a', 'b'].map((memberId) => ({ memberId, topics: ['t'], owned: ['t/0', 't/1'] }));
  const assignment = assignSticky(claims, new Map([['t', [0, 1]]]));
  expect([owned(assignment, 'a').length, owned(assignment, 'b').length]).toEqual([1, 1]);
});
