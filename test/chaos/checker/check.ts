/**
 * The checker: I1-I13 over what a run left behind, one function each.
 *
 * Guards that the engine is judged by something that knows none of its code: nothing in this folder imports
 * from engine/ or workers/ (an import rule holds that). I9 needs the engine's own fold and so is
 * test/chaos/replay.ts; what it finds comes in from there.
 */
import type { CheckOptions, Evidence, Invariant, Violation } from './evidence.ts';
import { checkI13 } from './ids.ts';
import { checkI1, checkI11, checkI2, checkI5 } from './log.ts';
import { checkI10, checkI3, checkI4 } from './messages.ts';
import { checkI12 } from './outcomes.ts';
import { checkI6, checkI7, checkI8 } from './steps.ts';

export const CHECKS: Readonly<
  Record<Exclude<Invariant, 'I9'>, (evidence: Evidence, options?: CheckOptions) => Violation[]>
> = {
  I1: checkI1,
  I2: checkI2,
  I3: checkI3,
  I4: checkI4,
  I5: checkI5,
  I6: checkI6,
  I7: checkI7,
  I8: checkI8,
  I10: checkI10,
  I11: checkI11,
  I12: checkI12,
  I13: checkI13,
};

/** @returns all violations but those of I9, the invariants in order; none when all of them hold */
export function check(evidence: Evidence, options: CheckOptions = {}): Violation[] {
  return Object.values(CHECKS).flatMap((one) => one(evidence, options));
}
