/** The benchmark's own figures: a stall can't hide in them, and a wrong outcome is never counted. */
import { describe, expect, test } from 'vitest';
import { runLoad, type Target } from '../../bench/load.ts';
import { latencyOf, spreadOf, trendOf } from '../../bench/stats.ts';
import { parseOptions, type Options } from '../../bench/options.ts';
import { runTurns, stackOf, turnTable, type Turn } from '../../bench/turns.ts';
import type { End } from '../../bench/watcher.ts';

function targetOf(run: (n: number) => Promise<End>): Target {
  let started = 0;
  return { run: () => run(++started), watch: () => undefined, close: () => Promise.resolve() };
}

describe('loads', () => {
  test('at a fixed rate, latency counts from the instant that was laid down for the start', async () => {
    const [rate_per_s, seconds] = [500, 0.1];
    const total = rate_per_s * seconds;
    const released = Promise.withResolvers<End>();
    // A system that stalls: nothing ends before the last has been started.
    const target = targetOf((n) => {
      if (n === total) released.resolve('completed');
      return released.promise;
    });
    const edges: string[] = [];
    const result = await runLoad(
      target,
      { kind: 'open', work: 'order', rate_per_s, seconds },
      (edge) => edges.push(edge),
    );
    expect(result.latency.count).toBe(total);
    // The first waited for all others' instants, the middle one for half of them.
    expect(result.latency.max_ms).toBeGreaterThanOrEqual(((total - 1) * 1000) / rate_per_s);
    expect(result.latency.p50_ms).toBeGreaterThanOrEqual(((total / 2 - 1) * 1000) / rate_per_s);
    expect(edges).toEqual(['begin', 'end']);
  });

  test('a closed loop keeps as many in flight as it was told, and counts the window only', async () => {
    let inFlight = 0;
    let most = 0;
    let total = 0;
    const target = targetOf(async () => {
      most = Math.max(most, ++inFlight);
      await new Promise((resolve) => setImmediate(resolve));
      inFlight -= 1;
      total += 1;
      return 'completed';
    });
    const load = {
      kind: 'closed',
      work: 'order',
      inFlight: 7,
      warmup_ms: 20,
      window_ms: 20,
    } as const;
    const result = await runLoad(target, load, () => undefined);
    expect(most).toBe(7);
    expect(result.total).toBe(total);
    expect(result.ended).toBeGreaterThan(0);
    expect(result.ended).toBeLessThan(total);
  });

  test.for(['single', 'open', 'closed'] as const)(
    '%s: a wrong outcome ends the run',
    async (kind) => {
      const target = targetOf(() => Promise.resolve('compensated'));
      const loads = {
        single: { kind: 'single', work: 'order', warmup: 0, count: 1 },
        open: { kind: 'open', work: 'order', rate_per_s: 1_000, seconds: 0.01 },
        closed: { kind: 'closed', work: 'order', inFlight: 2, warmup_ms: 1_000, window_ms: 1_000 },
      } as const;
      await expect(runLoad(target, loads[kind], () => undefined)).rejects.toThrow(
        'ended as compensated, not as completed',
      );
    },
  );
});

describe('figures', () => {
  test('percentiles are samples, not means of them', () => {
    const samples = Array.from({ length: 200 }, (_, n) => 200 - n);
    expect(latencyOf(samples)).toEqual({ count: 200, p50_ms: 100, p99_ms: 198, max_ms: 200 });
  });

  test('the trend of a saw-tooth is that of the line through it', () => {
    const saw = Array.from({ length: 100 }, (_, n) => 50 + 3 * n + (n % 10));
    expect(trendOf(saw)).toBeCloseTo(3, 1);
    expect(trendOf(saw.map((_, n) => n % 10))).toBeLessThan(0.02);
  });

  test('a spread is the median with its ends', () => {
    expect(spreadOf([9, 1, 4])).toEqual({ median: 4, min: 1, max: 9 });
    expect(spreadOf([4, 1, 9, 6])).toEqual({ median: 5, min: 1, max: 9 });
  });
});

describe('turns', () => {
  const turn = (contender: string, n: number, p50_ms: number): Turn => ({
    scenario: 'latency',
    turn: n,
    contender,
    measured: { per_s: 1000 / p50_ms, p50_ms, p99_ms: 2 * p50_ms, cpu_ms: null },
  });

  test('are compared with the turns beside them, whatever the machine did meanwhile', () => {
    // Half as quick with each turn: over all turns both have the same median.
    const table = turnTable([
      ...[10, 20, 40].map((p50_ms, index) => turn('one', index + 1, p50_ms)),
      ...[5, 20, 20].map((p50_ms, index) => turn('other', index + 1, p50_ms)),
    ]);
    expect(table).toContain('### latency, 3 turns');
    expect(table).toContain('| one | 50 | 20.0 | 40.0 | NaN |');
    expect(table).toContain(
      '| other | 50 (2.00 ×) | 20.0 (0.50 ×) | 40.0 (0.50 ×) | NaN (NaN ×) |',
    );
  });

  test('need two, and a load', () => {
    const turns = (...more: string[]) => parseOptions(['--turns', '3', ...more]);
    expect(() => turns('--only', 'idle')).toThrow(/--turns is for loads/);
    expect(() => parseOptions(['--against', '/nowhere'])).toThrow(/--turns 11/);
    const alone = turns('--only', 'sagax-postgres,latency') as Options;
    const start = (): never => expect.unreachable('nothing is to be started');
    const one = [{ name: 'one', start }];
    return expect(runTurns(one, 3, alone, () => undefined)).rejects.toThrow(/two systems/);
  });

  test('against a folder that is none of ours say so', () =>
    expect(stackOf('/nowhere')).rejects.toThrow(/no checkout of Sagax/));
});
