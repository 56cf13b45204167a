/** Each deliberate break is caught within a few seeds, under the name of the invariant that it breaks. */
import { describe, expect, test } from 'vitest';
import { BREAKS } from './breaks.ts';
import { INVARIANTS, type Violation } from './evidence.ts';
import { simulate } from './simulate.ts';

/** A break may need a rare fault to show. */
const SEEDS_PER_BREAK = 80;
/** Less than in a true run: a saga that hangs is seen to hang by then. */
const SETTLE_LIMIT_MS = 20 * 60_000;
const TIMEOUT_MS = 120_000;

describe('deliberate breaks', () => {
  test('there is one for each invariant', () => {
    const broken = new Set(BREAKS.map(({ invariant }) => invariant));
    expect(INVARIANTS.filter((invariant) => !broken.has(invariant))).toEqual([]);
  });

  test.each(BREAKS)(
    '$name ($invariant): $what',
    { timeout: TIMEOUT_MS },
    async ({ invariant, breakage }) => {
      let caught: { seed: number; violation: Violation } | null = null;
      for (let seed = 1; seed <= SEEDS_PER_BREAK && caught === null; seed++) {
        const { violations } = await simulate(seed, { breakage, settleLimitMs: SETTLE_LIMIT_MS });
        const violation = violations.find((one) => one.invariant === invariant);
        if (violation !== undefined) caught = { seed, violation };
      }
      expect(caught).not.toBeNull();
      // The same seed without the break is clean, so it is the break that was caught.
      const unbroken = await simulate(caught?.seed ?? 1);
      expect(unbroken.violations).toEqual([]);
    },
  );
});
