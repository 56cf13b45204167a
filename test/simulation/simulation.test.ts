/** The unbroken engine holds I1-I13 over a range of seeds, and a seed is one run, trace for trace. */
import { describe, expect, test } from 'vitest';
import { Coverage } from './coverage.ts';
import type { Violation } from './evidence.ts';
import { simulate } from './simulate.ts';

const SEEDS = 150;
/** The machine may be busy with other test files. */
const TIMEOUT_MS = 120_000;

describe('simulation', () => {
  test('one seed gives one trace, another seed another', { timeout: TIMEOUT_MS }, async () => {
    const hashes = new Set<string>();
    for (let seed = 1; seed <= 8; seed++) {
      const first: string[] = [];
      const again: string[] = [];
      const one = await simulate(seed, { trace: (line) => first.push(line) });
      const other = await simulate(seed, { trace: (line) => again.push(line) });
      expect(first.length).toBeGreaterThan(100);
      expect(again).toEqual(first);
      expect(other.traceHash).toBe(one.traceHash);
      expect(other.evidence.shardEvents).toEqual(one.evidence.shardEvents);
      hashes.add(one.traceHash);
    }
    expect(hashes.size).toBe(8);
  });

  test(
    `${SEEDS} seeds: every invariant holds, every kind of event, state and fault is met`,
    { timeout: TIMEOUT_MS },
    async () => {
      const coverage = new Coverage();
      const failed: { seed: number; violations: Violation[] }[] = [];
      for (let seed = 1; seed <= SEEDS; seed++) {
        const report = Coverage.report(await simulate(seed));
        coverage.add(report);
        if (report.violations.length > 0) failed.push({ seed, violations: report.violations });
      }
      expect(failed).toEqual([]);
      expect(coverage.unseenEvents()).toEqual([]);
      expect(coverage.unseenStates()).toEqual([]);
      const points = (fate: string): string[] =>
        coverage.counts(`${fate} `).map(([point]) => point);
      for (const fate of ['crashBefore', 'crashDuring', 'crashAfter', 'unknownDone', 'pause']) {
        expect(points(fate), fate).toContain('log.append');
        expect(points(fate), fate).toContain('bus.publish');
      }
      const ends = coverage.counts('end ').map(([status]) => status);
      expect(ends).toEqual(expect.arrayContaining(['completed', 'compensated', 'stuck']));
      expect(ends.filter((status) => /running|paused|compensating/.test(status))).toEqual([]);
    },
  );
});
