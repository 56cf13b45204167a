/** Snowflake ids: unique across nodes and increasing within one, whatever the clock does (I13). */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import {
  composeSnowflake,
  MAX_CLOCK_LEAD_MS,
  MAX_NODE_ID,
  parseSnowflake,
  SNOWFLAKE_EPOCH_MS,
  SnowflakeGenerator,
} from '../../engine/core/ids.ts';

const NOW = SNOWFLAKE_EPOCH_MS + 1_000_000;

function generator(nodeId = 1, startAboveMs = 0) {
  const source = { nodeId, nowMs: NOW, holds: true };
  const ids = new SnowflakeGenerator({
    nodeId,
    startAboveMs,
    now: () => source.nowMs,
    leaseHolds: () => source.holds,
  });
  return { ids, source };
}

function nextOrNull(ids: SnowflakeGenerator): string | null {
  try {
    return ids.next();
  } catch (error) {
    if (error instanceof SagaxError && error.code === 'CLOCK_BACKWARDS') return null;
    throw error;
  }
}

describe('SnowflakeGenerator (I13)', () => {
  test('an id holds its time, node id and sequence', () => {
    const { ids } = generator(513);
    expect(parseSnowflake(ids.next())).toEqual({ ms: NOW, nodeId: 513, sequence: 0 });
    expect(parseSnowflake(ids.next())).toEqual({ ms: NOW, nodeId: 513, sequence: 1 });
  });

  test('4,096 ids in one ms, then the logical clock goes on ahead of the wall clock', () => {
    const { ids } = generator();
    for (let n = 0; n < 4096; n++) ids.next();
    expect(parseSnowflake(ids.next())).toMatchObject({ ms: NOW + 1, sequence: 0 });
    expect(ids.lastMs).toBe(NOW + 1);
  });

  test('a clock that goes back is ridden out up to the limit, then refused, then taken up again', () => {
    const { ids, source } = generator();
    const first = ids.next();
    source.nowMs = NOW - MAX_CLOCK_LEAD_MS;
    expect(BigInt(ids.next()) > BigInt(first)).toBe(true);
    source.nowMs -= 1;
    expect(() => ids.next()).toThrow(expect.objectContaining({ code: 'CLOCK_BACKWARDS' }));
    source.nowMs = NOW + 5;
    expect(parseSnowflake(ids.next())).toMatchObject({ ms: NOW + 5, sequence: 0 });
  });

  test('a standing clock lends at most MAX_CLOCK_LEAD_MS', () => {
    const { ids } = generator();
    const most = (MAX_CLOCK_LEAD_MS + 1) * 4096;
    let made = 0;
    expect(() => {
      for (; made <= most; made++) ids.next();
    }).toThrow(expect.objectContaining({ code: 'CLOCK_BACKWARDS' }));
    expect(made).toBe(most);
  }, 60_000);

  test('no id at or below the time its node id was used before', () => {
    const { ids, source } = generator(1, NOW + 10);
    expect(parseSnowflake(ids.next()).ms).toBe(NOW + 11);
    source.nowMs = NOW + 20;
    expect(parseSnowflake(ids.next()).ms).toBe(NOW + 20);
  });

  test('no id without a lease', () => {
    const { ids, source } = generator();
    source.holds = false;
    expect(() => ids.next()).toThrow(expect.objectContaining({ code: 'NODE_LEASE_LOST' }));
    source.holds = true;
    expect(ids.next()).toMatch(/^\d+$/);
  });

  test.each([-1, 1024, 1.5])('node id %s is refused', (nodeId) => {
    expect(() => generator(nodeId)).toThrow(/outside 0\.\.1023/);
  });

  test('whatever the clocks do: unique across nodes, increasing within one, never below the start', () => {
    const moves = fc.array(
      fc.record({
        node: fc.nat(3),
        move: fc.integer({ min: -3_000, max: 3_000 }),
        count: fc.nat(40),
      }),
      {
        maxLength: 60,
      },
    );
    fc.assert(
      fc.property(moves, (steps) => {
        const nodes = [0, 1, 2, MAX_NODE_ID].map((nodeId) => generator(nodeId, NOW - 500));
        const seen = new Set<string>();
        const last = new Map<number, bigint>();
        const refused: number[] = [];
        for (const { node, move, count } of steps) {
          const { ids, source } = nodes[node] as ReturnType<typeof generator>;
          source.nowMs = Math.max(NOW - 4_000, source.nowMs + move);
          for (let n = 0; n < count; n++) {
            // Refused exactly when this ms is used up and the next one is too far ahead.
            const id = nextOrNull(ids);
            if (id === null) {
              refused.push(ids.lastMs - source.nowMs);
              break;
            }
            expect(seen.has(id)).toBe(false);
            seen.add(id);
            expect(BigInt(id)).toBeGreaterThan(last.get(node) ?? 0n);
            last.set(node, BigInt(id));
            expect(parseSnowflake(id).ms).toBeGreaterThan(NOW - 500);
          }
        }
        for (const lead_ms of refused) expect(lead_ms).toBeGreaterThanOrEqual(MAX_CLOCK_LEAD_MS);
      }),
      { numRuns: 200 },
    );
  });
});

test('compose and parse are inverse, and ids are in the order of (time, node id, sequence)', () => {
  const parts = fc.record({
    ms: fc.integer({ min: SNOWFLAKE_EPOCH_MS, max: SNOWFLAKE_EPOCH_MS + 2 ** 41 - 1 }),
    nodeId: fc.integer({ min: 0, max: MAX_NODE_ID }),
    sequence: fc.integer({ min: 0, max: 4095 }),
  });
  fc.assert(
    fc.property(parts, parts, (a, b) => {
      const [x, y] = [a, b].map(({ ms, nodeId, sequence }) =>
        composeSnowflake(ms, nodeId, sequence),
      ) as [string, string];
      expect(parseSnowflake(x)).toEqual(a);
      const order = a.ms - b.ms || a.nodeId - b.nodeId || a.sequence - b.sequence;
      expect(BigInt(x) > BigInt(y)).toBe(order > 0);
      // The largest id is a positive bigint of SQL.
      expect(BigInt(x) < 2n ** 63n).toBe(true);
    }),
  );
});
