/**
 * The checker: I1-I13 of the design over what a run left behind, one function each.
 *
 * Guards that the engine is judged by something other than itself: nothing here uses its decide or
 * evolve, but for I9, which is about evolve.
 */
import { checkI1, checkI11, checkI13, checkI2, checkI5 } from './checks/log.ts';
import { checkI10, checkI3, checkI4 } from './checks/messages.ts';
import { checkDefects, checkI12 } from './checks/outcomes.ts';
import { checkI9 } from './checks/replay.ts';
import { checkI6, checkI7, checkI8 } from './checks/steps.ts';
import type { Evidence, Invariant, Violation } from './evidence.ts';

export const CHECKS: Readonly<Record<Invariant, (evidence: Evidence) => Violation[]>> = {
  I1: checkI1,
  I2: checkI2,
  I3: checkI3,
  I4: checkI4,
  I5: checkI5,
  I6: checkI6,
  I7: checkI7,
  I8: checkI8,
  I9: checkI9,
  I10: checkI10,
  I11: checkI11,
  I12: checkI12,
  I13: checkI13,
};

/** @returns all violations, the invariants in order; none when all of them hold */
export function check(evidence: Evidence): Violation[] {
  return [...Object.values(CHECKS).flatMap((one) => one(evidence)), ...checkDefects(evidence)];
}
