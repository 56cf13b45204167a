/** Pauses between attempts, and durations: capped, growing, spread, and the same on every replay. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MAX_DURATION_MS, durationMs, type Duration } from '../../engine/core/durations.ts';
import { SETTLEMENT_RETRY, retryDelayMs } from '../../engine/core/retry.ts';

const policies = fc.record({
  maxAttempts: fc.integer({ min: 1, max: 50 }),
  initialIntervalMs: fc.integer({ min: 1, max: 60_000 }),
  backoff: fc.double({ min: 1, max: 10, noNaN: true }),
  maxIntervalMs: fc.integer({ min: 1, max: 3_600_000 }),
});

describe('retryDelayMs', () => {
  test('is whole ms, between half of the interval and all of it, and never above the cap', () => {
    fc.assert(
      fc.property(
        policies,
        fc.string(),
        fc.integer({ min: 1, max: 10_000 }),
        (policy, id, failed) => {
          const delay = retryDelayMs(policy, id, failed);
          const interval = Math.min(
            policy.maxIntervalMs,
            policy.initialIntervalMs * policy.backoff ** Math.min(failed - 1, 60),
          );
          expect(Number.isSafeInteger(delay)).toBe(true);
          expect(delay).toBeGreaterThanOrEqual(Math.max(1, Math.floor(interval / 2)));
          expect(delay).toBeLessThanOrEqual(Math.max(1, Math.ceil(interval)));
          expect(retryDelayMs(policy, id, failed)).toBe(delay);
        },
      ),
    );
  });

  test('spreads sagas that failed at the same moment', () => {
    const policy = { ...SETTLEMENT_RETRY, initialIntervalMs: 10_000 };
    const delays = Array.from({ length: 1_000 }, (_, n) =>
      retryDelayMs(policy, `${7_000 + n}.1`, 1),
    );
    const buckets = new Set(delays.map((delay) => Math.floor((delay - 5_000) / 500)));
    expect(buckets.size).toBe(10);
  });

  test('a settlement is tried for about ten minutes in all', () => {
    let total = 0;
    for (let failed = 1; failed < SETTLEMENT_RETRY.maxAttempts; failed++) {
      total += retryDelayMs(SETTLEMENT_RETRY, '7001.1.s', failed);
    }
    expect(total).toBeGreaterThan(5 * 60_000);
    expect(total).toBeLessThan(12 * 60_000);
  });
});

describe('durationMs', () => {
  test.each<[Duration, number]>([
    ['250ms', 250],
    ['10s', 10_000],
    ['1.5s', 1_500],
    ['5m', 300_000],
    ['2h', 7_200_000],
    ['30d', 2_592_000_000],
    [42, 42],
    [1.4, 1],
    ['36500d', MAX_DURATION_MS],
  ])('%s is %i ms', (text, ms) => {
    expect(durationMs(text, 'it')).toBe(ms);
  });
});
