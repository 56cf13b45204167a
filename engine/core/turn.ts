/**
 * A turn: one cause applied to a copy of the state, with the consequences that follow from it.
 *
 * Guards that consequences are added in one place, in order. Pure: time comes in, ids are derived,
 * nothing is awaited. What a turn does is next door: `calls.ts` (commands), `obligations.ts` (what is
 * owed), `advance.ts` (the machine), `causes.ts` (where it begins).
 */
import type { EventObject } from 'xstate';
import type { StepError } from './contracts.ts';
import type { AnyDefinition } from './define.ts';
import { DefinitionFault } from './errors.ts';
import type { ConsequenceEvent, Failure } from './events.ts';
import type { Json } from './json.ts';
import type { SagaState } from './state.ts';
import type { StepSpec } from './steps.ts';
import { whyUnsendable } from './wire.ts';

export interface Turn {
  readonly definition: AnyDefinition;
  readonly state: SagaState;
  /** ms since the epoch, the database's clock. */
  readonly now: number;
  readonly consequences: ConsequenceEvent[];
  /** Events that the machine has still to be told in this turn. */
  readonly machineQueue: EventObject[];
  /** What set the turn off, when that alone may be why the machine goes back: a signal, a timer. */
  trigger: Failure | null;
  machineTurns: number;
  /** Whether the machine's queue is being worked off: a nested call only adds to it. */
  machineRuns: boolean;
}

/** `state` must be a copy that this turn may change, its `streamVersion` that of the cause. */
export function beginTurn(definition: AnyDefinition, state: SagaState, now: number): Turn {
  return {
    definition,
    state,
    now,
    consequences: [],
    machineQueue: [],
    trigger: null,
    machineTurns: 0,
    machineRuns: false,
  };
}

/** Adds a consequence. @returns its stream version. */
export function emit(turn: Turn, event: ConsequenceEvent): number {
  turn.consequences.push(event);
  return turn.state.streamVersion + turn.consequences.length;
}

export function stepSpec(turn: Turn, step: { step: string }): StepSpec {
  const spec = turn.definition.actors.get(step.step);
  if (spec?.kind !== 'step') {
    throw new DefinitionFault(
      'MACHINE_FAULT',
      `The definition has no step named "${step.step}" any more.`,
    );
  }
  return spec;
}

export function trace(state: SagaState): { traceparent?: string } {
  return state.traceparent === undefined ? {} : { traceparent: state.traceparent };
}

/** Leaves word for the machine that a child is done; it is told when the machine runs next. */
export function queueDone(turn: Turn, actorId: string, output: Json): void {
  turn.machineQueue.push({
    type: `xstate.done.actor.${actorId}`,
    output,
    actorId,
  } as EventObject);
}

/** The same, of a child that failed. */
export function queueError(turn: Turn, actorId: string, error: StepError): void {
  turn.state.lastFailure = { code: error.code, message: error.message };
  turn.machineQueue.push({
    type: `xstate.error.actor.${actorId}`,
    error,
    actorId,
  } as EventObject);
}

/** @throws DefinitionFault PAYLOAD_REFUSED when `value` doesn't fit into one message */
export function assertSendable(value: Json, what: string): void {
  const why = whyUnsendable(value);
  if (why !== null) throw new DefinitionFault('PAYLOAD_REFUSED', `${what} ${why}`);
}
