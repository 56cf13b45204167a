/**
 * Each deliberate break is caught within a few seeds, under the name of the invariant that it breaks: with the sagas
 * that somebody wrote, and with generated ones alone.
 */
import { describe, expect, test } from 'vitest';
import { BREAKS } from './breaks.ts';
import { CHECKS } from './checker.ts';
import { INVARIANTS } from './evidence.ts';
import { simulate } from './simulate.ts';

/** A break may need a rare fault to show. */
const SEEDS_PER_BREAK = 400;
/** Less than in a true run: a saga that hangs is seen to hang by then. */
const SETTLE_LIMIT_MS = 20 * 60_000;
const TIMEOUT_MS = 120_000;

describe('deliberate breaks', () => {
  test('there is one for each invariant', () => {
    const broken = new Set(BREAKS.map(({ invariant }) => invariant));
    expect(INVARIANTS.filter((invariant) => !broken.has(invariant))).toEqual([]);
  });

  const runs = (['written', 'generated'] as const).flatMap((drawn) =>
    BREAKS.map((one) => ({ ...one, drawn })),
  );

  test.each(runs)(
    '$name ($invariant, $drawn sagas): $what',
    { timeout: TIMEOUT_MS },
    async ({ invariant, breakage, drawn }) => {
      let caught: number | null = null;
      for (let seed = 1; seed <= SEEDS_PER_BREAK && caught === null; seed++) {
        const options = { breakage, drawn, settleLimitMs: SETTLE_LIMIT_MS };
        const { violations } = await simulate(seed, options);
        if (violations.some((one) => one.invariant === invariant)) caught = seed;
      }
      expect(caught).not.toBeNull();
      // The same seed without the break is clean, so it is the break that was caught.
      const unbroken = await simulate(caught ?? 1, { drawn });
      expect(unbroken.violations).toEqual([]);
    },
  );

  test(
    'what readers were shown and is there no more is a break of I1',
    { timeout: TIMEOUT_MS },
    async () => {
      for (let seed = 1; seed <= SEEDS_PER_BREAK; seed++) {
        const { evidence } = await simulate(seed, { settleLimitMs: SETTLE_LIMIT_MS });
        const shown = evidence.shown.find(({ events }) => events.length > 0);
        if (shown === undefined) continue;
        const other = { ...shown, events: shown.events.map((event) => `${event} `) };
        expect(CHECKS.I1(evidence)).toEqual([]);
        expect(CHECKS.I1({ ...evidence, shown: [other] })).toHaveLength(shown.events.length);
        return;
      }
      expect.fail('no reader was shown anything');
    },
  );
});
