/** Which shard a saga belongs to: Kafka's own hash, so that every producer agrees. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { murmur2, partitionOf } from '../../engine/core/shards.ts';

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("murmur2 is Kafka's", () => {
  // The values of UtilsTest.testMurmur2 in Apache Kafka (clients/src/test/java/org/apache/kafka/common/utils).
  test.each([
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['abc', 479470107],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
  ])('%s', (key, hash) => {
    expect(murmur2(utf8(key))).toBe(hash);
  });

  test('bytes with the high bit set count as unsigned, as in kafkajs', () => {
    expect(murmur2(utf8('größe-€-😀'))).toBe(1267578581);
  });
});

describe('partitionOf', () => {
  test('is within the count, and the same each time', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary' }),
        fc.integer({ min: 1, max: 4096 }),
        (key, count) => {
          const partition = partitionOf(key, count);
          expect(Number.isInteger(partition) && partition >= 0 && partition < count).toBe(true);
          expect(partitionOf(key, count)).toBe(partition);
        },
      ),
    );
  });

  test('spreads Snowflake ids evenly: no partition has twice its share', () => {
    const counts = Array.from({ length: 16 }, () => 0);
    const base = 7_000_000_000_000_000_000n;
    for (let n = 0n; n < 16_000n; n++) {
      const partition = partitionOf((base + n).toString(), 16);
      counts[partition] = (counts[partition] ?? 0) + 1;
    }
    expect(Math.max(...counts)).toBeLessThan(1_300);
    expect(Math.min(...counts)).toBeGreaterThan(700);
  });
});
