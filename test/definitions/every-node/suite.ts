/**
 * Every node of every example saga through every trouble, on a store and with handlers of one kind (I6, I7, I8).
 */
import assert from 'node:assert/strict';
import type { z } from 'zod';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { definitions } from '../../../definitions/index.ts';
import type { AnyContract } from '../../../engine/core/contracts.ts';
import type { Json } from '../../../engine/core/json.ts';
import type { CommandBody } from '../../../engine/core/wire.ts';
import { effect, transactional, type Handler } from '../../../workers/handlers.ts';
import { Pace } from '../../../workers/pace.ts';
import { executions } from '../../workers/support/executions.ts';
import type { StoreRig } from '../../workers/support/stores.ts';
import { casesOf, type Case } from './faults.ts';
import { contractsOf, nodesOf, sampleOf, unreached, WAYS, type Node, type Way } from './nodes.ts';
import { World, type Participants } from './world.ts';

/** How the participants work: through their own transaction, one by one or shared, or elsewhere under a lease. */
export type Kind = 'transactional' | 'in batches' | 'effect';

export interface SuiteOptions<Tx> {
  name: string;
  kind: Kind;
  open: () => StoreRig<Tx> | Promise<StoreRig<Tx>>;
  /** Lets the time of the store's clock pass while commands run, where it does not by itself. */
  whileTimePasses: <T>(rig: StoreRig<Tx>, work: Promise<T>) => Promise<T>;
  /** Sagas that run side by side. */
  atOnce: number;
}

/** Takes no handler for a quick one, so that each command has a transaction of its own. */
class Unhurried extends Pace {
  override quick(): null {
    return null;
  }
}

/** Sagas of all suites differ, whatever database they share. */
let sagas = 0;
const nextSagaId = (): string => `9${String((sagas += 1)).padStart(17, '0')}`;

export function everyNodeSuite<Tx>(options: SuiteOptions<Tx>): void {
  let rig: StoreRig<Tx>;
  let participants: Participants;
  const reached = new Set<string>();

  beforeAll(async () => {
    rig = await options.open();
    participants = await participantsOf(rig, options);
  });
  afterAll(() => rig.close());

  describe(`${options.name}, ${options.kind}`, () => {
    test.each(WAYS)('$name: every node in every trouble', { timeout: 120_000 }, async (way) => {
      const { nodes, parallel } = await undisturbed(way, participants);
      for (const { actorId } of nodes) reached.add(`${way.definition.name}/${actorId}`);
      const cases = casesOf(way, nodes, parallel);
      expect(await failuresOf(cases, nodes, participants, options.atOnce)).toEqual([]);
      expect(cases.length).toBeGreaterThan(nodes.length * 12);
    });

    test.each(WAYS)('$name: a compensation that overtakes its step', async (way) => {
      const { nodes } = await undisturbed(way, participants);
      const owed = nodes.filter((node) => node.class === 'compensatable');
      for (const node of owed) {
        for (const together of [false, true]) await overtake(way, node, participants, together);
      }
      expect(owed.length).toBeGreaterThan(0);
    });

    test('the ways come to every step of every definition', () => {
      expect(unreached(reached)).toEqual([]);
    });
  });
}

export async function undisturbed(
  way: Way,
  participants: Participants,
): Promise<{ nodes: Node[]; parallel: boolean }> {
  const one: Case = { name: way.name, way, faults: [], first: 'oldest' };
  const world = new World(one, participants, nextSagaId());
  await world.run();
  assert.equal(world.driver.status, 'completed');
  return { nodes: nodesOf(way.definition, world.driver), parallel: world.parallel };
}

/** Runs all cases. @returns a line for each that does not hold */
export async function failuresOf(
  cases: readonly Case[],
  nodes: readonly Node[],
  participants: Participants,
  atOnce: number,
): Promise<string[]> {
  const failures: string[] = [];
  await each(cases, atOnce, async (one) => {
    try {
      await runCase(one, nodes, participants);
    } catch (error) {
      failures.push(`${one.name}: ${(error as Error).message}`);
    }
  });
  return failures;
}

async function runCase(one: Case, nodes: readonly Node[], participants: Participants) {
  const world = new World(one, participants, nextSagaId());
  await world.run();
  const ledger = await world.ledger();
  assertLedger(one, nodes, world, ledger, participants.outside);
  await world.echo();
  assert.deepEqual(await world.ledger(), ledger, 'commands that come once more change nothing');
}

/**
 * A step's compensation comes before the step, or at the same time: either it finds nothing and the step is
 * refused from then on, or the step was first and is taken back.
 */
async function overtake(way: Way, node: Node, participants: Participants, together: boolean) {
  const sagaId = nextSagaId();
  const one: Case = { name: way.name, way, faults: [], first: 'oldest' };
  const world = new World(one, participants, sagaId);
  await world.run();
  // A step of the same contract that this saga has not sent: its number is beyond all of them.
  const step = world.strayStep(node.step);
  const [first, other] = participants.workers;
  const commandId = `${step.commandId}.c`;
  const compensation: CommandBody = {
    ...step,
    commandId,
    of: step.commandId,
    op: 'compensate',
    command: node.spec.compensation?.contract.name ?? '',
    input: sampleOf(node.spec.compensation?.contract.input as z.ZodType, commandId),
  };
  const [undone, done] = together
    ? await Promise.all([first(compensation), other(step)])
    : [await first(compensation), await other(step)];
  const { applied } = participants;
  const effects = [await applied(step.commandId), await applied(commandId)];
  if (done.outcome === 'superseded') {
    assert.deepEqual(effects, [0, 0], 'nothing was done, nothing was taken back');
    assert.equal(undone.outcome, 'succeeded');
  } else {
    assert.ok(together, 'a step behind its compensation is not run');
    assert.equal(done.outcome, 'succeeded');
    // An effect that is under way can't be taken back yet: the engine asks again.
    const again = undone.outcome === 'succeeded' ? undone : await first(compensation);
    assert.equal(again.outcome, 'succeeded');
    assert.deepEqual([await applied(step.commandId), await applied(commandId)], [1, 1]);
  }
}

/** What must be left, told by the case alone. */
function assertLedger(
  one: Case,
  nodes: readonly Node[],
  world: World,
  ledger: Ledger,
  outside: boolean,
): void {
  const { status } = world.driver;
  const [end] = one.faults;
  const ender = nodes.find(({ step }) => step === end?.node);
  assert.equal(status, turnsBack(end, ender, ledger, outside) ? 'compensated' : 'completed');
  for (const { step, class: stepClass } of nodes) {
    const { done, undone } = ledger[step] ?? { done: 0, undone: 0 };
    if (status === 'completed') {
      assert.deepEqual({ done, undone }, { done: 1, undone: 0 }, step);
    } else if (stepClass === 'compensatable') {
      assert.ok(done === 0 || done === 1, `${step} was done ${done} times`);
      assert.equal(undone, done, `${step} was done ${done} times and taken back ${undone} times`);
    } else {
      assert.deepEqual({ done, undone }, { done: 0, undone: 0 }, step);
    }
  }
  const wanted = wantedOf(end, ender, outside);
  if (wanted !== null && end !== undefined)
    assert.equal(ledger[end.node]?.done ?? 0, wanted, end.node);
  assertStuck(one, nodes, world, ledger, outside);
  for (const { node, trouble } of one.faults) {
    if (trouble !== 'twice' && trouble !== 'at once') continue;
    assert.ok(world.runs(node) <= 1, `the handler of ${node} ran ${world.runs(node)} times`);
  }
}

type Fault = Case['faults'][number] | undefined;
type Ledger = Awaited<ReturnType<World['ledger']>>;

/** Whether the first fault of a case, on a step, ends the saga by compensation. */
function turnsBack(end: Fault, ender: Node | undefined, ledger: Ledger, outside: boolean): boolean {
  if (end === undefined || ender === undefined || ender.class === 'retriable') return false;
  const isPivot = ender.class === 'pivot';
  switch (end.trouble) {
    case 'rejected':
    case 'comes late':
      return true;
    case 'broken':
    case 'broken behind':
      // An effect's outcome is learnt in the end by running it again; a pivot that was done stands.
      return !isPivot || !outside;
    case 'answer lost':
    case 'answer late':
      return !isPivot;
    case 'settled meanwhile':
      return !isPivot || ledger[end.node]?.done === 0;
    default:
      return false;
  }
}

/** How often the step of the first fault must have been done; null: both are right. */
function wantedOf(end: Fault, ender: Node | undefined, outside: boolean): number | null {
  if (end === undefined || ender === undefined) return null;
  switch (end.trouble) {
    case 'rejected':
    case 'comes late':
      return 0;
    case 'settled meanwhile':
      return null;
    case 'broken':
    case 'broken behind':
      // A rolled back attempt never ran; an effect may have, so it is asked again until somebody knows.
      return ender.class === 'retriable' || outside ? 1 : 0;
    default:
      return 1;
  }
}

/** A person was needed exactly where something stayed broken that must succeed. */
function assertStuck(
  one: Case,
  nodes: readonly Node[],
  world: World,
  ledger: Ledger,
  outside: boolean,
): void {
  const expected = new Set<string>();
  for (const { node, trouble } of one.faults) {
    if (trouble !== 'broken' && trouble !== 'broken behind') continue;
    const [step = '', op] = node.split(':');
    const stepClass = nodes.find((candidate) => candidate.step === step)?.class;
    if (op === 'compensate') {
      if (ledger[step]?.done === 1) expected.add('COMPENSATION_FAILED');
    } else if (stepClass === 'retriable') expected.add('STEP_ATTEMPTS_EXHAUSTED');
    else if (outside) expected.add('SETTLEMENT_FAILED');
  }
  assert.deepEqual(new Set(world.stuck), expected, 'stuck for the reason that there is (I12)');
}

export async function participantsOf<Tx>(
  rig: StoreRig<Tx>,
  { kind, whileTimePasses }: Pick<SuiteOptions<Tx>, 'kind' | 'whileTimePasses'>,
): Promise<Participants> {
  const worlds = new Map<string, World>();
  /** The other system's books: one entry for each idempotency key. */
  const elsewhere = new Set<string>();
  const worldOf = (sagaId: string): World => {
    const world = worlds.get(sagaId);
    if (world === undefined) throw new Error(`There is no saga ${sagaId}.`);
    return world;
  };
  const handlers = contractsOf(definitions).map((contract) =>
    kind === 'effect'
      ? outsideHandler(contract, worldOf, elsewhere)
      : insideHandler(contract, worldOf, rig),
  );
  const way = kind === 'in batches' ? 'in batches' : 'one by one';
  const worker = async (): Promise<Participants['workers'][0]> => {
    const store = rig.connect();
    await store.start();
    const options = way === 'one by one' ? { pace: new Unhurried(rig.clock) } : {};
    const runs = executions(rig, store, handlers, way, options);
    return (command) => whileTimePasses(rig, runs.run(command));
  };
  return {
    workers: [await worker(), await worker()],
    applied: async (commandId) =>
      kind === 'effect' ? Number(elsewhere.has(commandId)) : rig.count(commandId),
    worlds,
    outside: kind === 'effect',
  };
}

function insideHandler<Tx>(
  contract: AnyContract,
  worldOf: (sagaId: string) => World,
  rig: StoreRig<Tx>,
): Handler<Tx> {
  return transactional<AnyContract, Tx>(contract, async (context) =>
    worldOf(context.sagaId).work({
      commandId: context.commandId,
      contract,
      original: context.original,
      apply: () => rig.add(context.tx, context.commandId, 1),
      reject: (code, data) => context.reject(code, data),
    }),
  );
}

function outsideHandler(
  contract: AnyContract,
  worldOf: (sagaId: string) => World,
  elsewhere: Set<string>,
): Handler<unknown> {
  return effect(contract, async (context) =>
    worldOf(context.sagaId).work({
      commandId: context.commandId,
      contract,
      original: context.original,
      apply: async () => void elsewhere.add(context.idempotencyKey),
      reject: (code, data: Json) => context.reject(code, data),
    }),
  );
}

/** Runs `work` for each item, `atOnce` at a time. */
async function each<T>(items: readonly T[], atOnce: number, work: (item: T) => Promise<void>) {
  const rest = items.values();
  const lane = async (): Promise<void> => {
    for (const item of rest) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}
