/**
 * What one seed stands for: how many processes, which sagas, which faults, how participants behave.
 *
 * Guards variety: some seeds are calm, some stormy, each fault is off in a part of them, so that one
 * fault can't hide what another one would show.
 */
import type { AnyDefinition } from '../../engine/core/define.ts';
import { CALM, type FaultPlan, type Random } from '../../engine/memory/index.ts';
import { order } from '../../definitions/order/saga.ts';
import { transfer } from '../../definitions/transfer/saga.ts';
import { trip } from '../../definitions/trip/saga.ts';
import { generateDefinition } from './generated.ts';
import type { Behaviour } from './participants.ts';
import { POINTS, RARE_POINTS } from './points.ts';
import { simulationSagas } from './sagas.ts';

/** Those that somebody wrote. */
export const WRITTEN: readonly AnyDefinition[] = [order, trip, transfer, ...simulationSagas];

/** `written`: the examples and the sagas of the simulation. `generated`: machines made by the seed. */
export const DRAWN = ['all', 'written', 'generated'] as const;
export type Drawn = (typeof DRAWN)[number];

export interface Plan {
  shards: number;
  engines: number;
  workerProcesses: number;
  clients: number;
  commandPartitions: number;
  definitions: readonly AnyDefinition[];
  sagas: number;
  /** ms of virtual time during which faults happen. */
  chaosMs: number;
  faults: FaultPlan;
  behaviour: Behaviour;
  /** Pause between two acts of the chaos (deaths, stops, rebalances, stolen leases), ms. */
  actPauseMs: readonly [number, number];
  leaseTtlMs: number;
  sessionTimeoutMs: number;
  signalsPerSaga: number;
  cancelChance: number;
  pauseChance: number;
  operatorChance: number;
  keyedChance: number;
  strayChance: number;
  poisonChance: number;
  blunderChance: number;
  /** Whether the bus is in the log's database: what a batch has to say goes out with its commit. */
  busInLog: boolean;
}

/** High enough that a rare call meets some fault in a seed, low enough that a frequent one gets through. */
const FOCUS_CHANCE = 0.12;
const RARE_FOCUS_CHANCE = 0.6;

function drawFocus(random: Random): FaultPlan['focus'] {
  if (random.chance(0.4)) return null;
  return random.chance(0.5)
    ? { point: random.pick(RARE_POINTS), chance: RARE_FOCUS_CHANCE }
    : { point: random.pick(POINTS), chance: FOCUS_CHANCE };
}

/** Makes what leads to the point in focus happen often. */
function seekOut(plan: Plan): Plan {
  const point = plan.faults.focus?.point ?? '';
  if (point.startsWith('store.park')) return { ...plan, poisonChance: 1 };
  if (point.startsWith('deadLetters.')) return { ...plan, blunderChance: 1 };
  const behaviour = { ...plan.behaviour };
  if (point.startsWith('store.extend')) behaviour.hangChance = 0.2;
  if (point.startsWith('store.rollback')) behaviour.rejectChance = 0.3;
  return { ...plan, behaviour };
}

/** `value` in most seeds, 0 in the others. */
function sometimes(random: Random, share: number, value: number): number {
  return random.chance(share) ? value : 0;
}

export function drawPlan(random: Random, drawn: Drawn): Plan {
  const stormy = random.chance(0.6);
  const scale = stormy ? 1 : 0.25;
  return seekOut({
    shards: random.int(1, 3),
    engines: random.int(1, 3),
    workerProcesses: random.int(1, 2),
    clients: random.int(1, 2),
    commandPartitions: random.int(1, 2),
    definitions: drawDefinitions(random, drawn),
    sagas: random.int(2, 6),
    chaosMs: random.int(8_000, 25_000),
    faults: drawFaults(random, scale),
    behaviour: {
      rejectChance: sometimes(random, 0.7, 0.1),
      throwChance: sometimes(random, 0.7, 0.15),
      hangChance: sometimes(random, 0.5, 0.05),
      pendingChance: sometimes(random, 0.4, 0.15),
      cursedShare: sometimes(random, 0.3, 0.1),
      cursedForEver: random.chance(0.4),
    },
    actPauseMs: stormy ? [300, 2_500] : [2_000, 10_000],
    leaseTtlMs: random.pick([1_500, 4_000, 10_000]),
    sessionTimeoutMs: random.pick([800, 3_000, 10_000]),
    signalsPerSaga: random.int(0, 3),
    cancelChance: sometimes(random, 0.7, 0.3),
    pauseChance: sometimes(random, 0.5, 0.25),
    operatorChance: sometimes(random, 0.8, 0.6),
    keyedChance: sometimes(random, 0.5, 0.4),
    strayChance: sometimes(random, 0.4, 0.1),
    poisonChance: sometimes(random, 0.4, 0.2),
    blunderChance: sometimes(random, 0.4, 0.3),
    busInLog: random.chance(0.3),
  });
}

function drawDefinitions(random: Random, drawn: Drawn): AnyDefinition[] {
  const generate = (count: number): AnyDefinition[] =>
    Array.from({ length: count }, (_, n) => generateDefinition(n + 1, random.uint32()));
  switch (drawn) {
    case 'written':
      return random.shuffle(WRITTEN).slice(0, random.int(1, 3));
    case 'generated':
      return generate(random.int(1, 3));
    case 'all':
      return [...random.shuffle(WRITTEN).slice(0, random.int(1, 2)), ...generate(random.int(0, 2))];
  }
}

function drawFaults(random: Random, scale: number): FaultPlan {
  return {
    ...CALM,
    latencyMs: random.pick([[1, 3] as const, [1, 15] as const, [5, 60] as const]),
    slowChance: sometimes(random, 0.6, 0.03),
    slowMs: [200, 4_000],
    failChance: sometimes(random, 0.6, 0.03 * scale),
    unknownChance: sometimes(random, 0.6, 0.03 * scale),
    crashChance: sometimes(random, 0.7, 0.01 * scale),
    pauseChance: sometimes(random, 0.6, 0.004 * scale),
    pauseMs: [500, 12_000],
    duplicateChance: sometimes(random, 0.6, 0.05),
    duplicateMs: [1, 8_000],
    clockLagMs: sometimes(random, 0.5, 50),
    focus: drawFocus(random),
  };
}

/** What each definition is started with. */
export function drawInput(definition: AnyDefinition, n: number, random: Random): object {
  switch (definition.name) {
    case 'order':
      return {
        orderId: `o-${n}`,
        email: 'a@example.org',
        sku: 'sku',
        quantity: 1,
        amountCents: random.chance(0.5) ? 5_000 : 200_000,
        card: '4242',
        address: { name: 'A', street: 'S', city: 'C', postalCode: '1', country: 'DE' },
        approvalTimeoutMs: random.int(1_000, 20_000),
      };
    case 'trip':
      return {
        tripId: `t-${n}`,
        traveller: 'A',
        email: 'a@example.org',
        flight: 'F1',
        hotel: 'H1',
        city: 'C',
        carClass: random.chance(0.7) ? 'S' : null,
        nights: 2,
        amountCents: 9_000,
        card: '4242',
      };
    case 'transfer':
      return {
        transferId: `x-${n}`,
        from: 'a',
        to: 'b',
        amountCents: 100,
        email: 'a@example.org',
      };
    default:
      return {
        rounds: random.int(0, 4),
        fault: definition.name === 'detour' && random.chance(0.2),
      };
  }
}

export function drawSignalPayload(name: string): object {
  switch (name) {
    case 'decline':
      return { by: 'someone', reason: 'no' };
    case 'approve':
    case 'hurry':
      return { by: 'someone' };
    default:
      return {};
  }
}
