/**
 * What can go wrong with one I/O call, how often, and a count of what did.
 *
 * Guards that every fault of a simulated world is drawn here, by seed, and that blind spots show: a
 * point at which nothing was ever injected is missing from the tally.
 */
import type { Random } from './random.ts';

/** Chances are per I/O call, 0..1; times are ms of virtual time, both ends included. */
export interface FaultPlan {
  /** Each way of a call takes this long. */
  latencyMs: readonly [number, number];
  /** A call that takes much longer, so that it is overtaken by others. */
  slowChance: number;
  slowMs: readonly [number, number];
  /** The call fails and nothing was done. */
  failChance: number;
  /** The call fails although it may have been done (a coin decides whether it was). */
  unknownChance: number;
  /** The process dies at the call: before it is sent, while it is under way, or after it was done. */
  crashChance: number;
  /** The process stops at the call (SIGSTOP) and goes on later, a zombie. */
  pauseChance: number;
  pauseMs: readonly [number, number];
  /** A publish comes a second time, later: a producer's retry whose first try had got through. */
  duplicateChance: number;
  duplicateMs: readonly [number, number];
  /** One point at which things go wrong more often than elsewhere, in every way: for calls that are rare. */
  focus: { point: string; chance: number } | null;
  /** How far a process's clock may be behind the database's; never ahead, so timers are never early. */
  clockLagMs: number;
}

/** Calls take a moment, and nothing goes wrong. */
export const CALM: FaultPlan = {
  latencyMs: [1, 3],
  slowChance: 0,
  slowMs: [0, 0],
  failChance: 0,
  unknownChance: 0,
  crashChance: 0,
  pauseChance: 0,
  pauseMs: [0, 0],
  duplicateChance: 0,
  duplicateMs: [0, 0],
  focus: null,
  clockLagMs: 0,
};

/** All that can go wrong with a call. */
export const FAULTS = [
  'failed',
  'unknownDone',
  'unknownNotDone',
  'unknownPartial',
  'crashBefore',
  'crashDuring',
  'crashAfter',
  'pause',
] as const;
export type Fate = 'done' | (typeof FAULTS)[number];

/** What becomes of one call at `point`. */
export function drawFate(plan: FaultPlan, random: Random, point: string): Fate {
  const { focus } = plan;
  if (focus?.point === point && random.chance(focus.chance)) return random.pick(FAULTS);
  const sum = plan.failChance + plan.unknownChance + plan.crashChance + plan.pauseChance;
  if (sum === 0) return 'done';
  let roll = random.unit();
  if (roll >= sum) return 'done';
  if (roll < plan.failChance) return 'failed';
  roll -= plan.failChance;
  if (roll < plan.unknownChance) {
    return random.pick(['unknownDone', 'unknownNotDone', 'unknownPartial'] as const);
  }
  roll -= plan.unknownChance;
  if (roll < plan.crashChance) {
    return random.pick(['crashBefore', 'crashDuring', 'crashAfter'] as const);
  }
  return 'pause';
}

/** How long one way of a call takes. */
export function drawLatency(plan: FaultPlan, random: Random): number {
  const [from, to] = random.chance(plan.slowChance) ? plan.slowMs : plan.latencyMs;
  return random.int(from, to);
}
