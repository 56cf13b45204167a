/**
 * What is owed, and in which order it is taken back.
 *
 * Guards I6: compensation runs for exactly what was done or may have been done, in reverse of the
 * partial order: if A was known done before B was requested, B is compensated before A. Steps that
 * overlapped have no order between them and are compensated side by side.
 */
import { DefinitionFault } from './errors.ts';
import type { Failure } from './events.ts';
import { fit, wordsOf } from './fit.ts';
import { sortedCopy, toJson, type Json } from './json.ts';
import { rulesOf, stepsOf, type SagaState, type StepState } from './state.ts';
import type { StepSpec } from './steps.ts';
import { assertSendable, emit, queueDone, stepSpec, trace, type Turn } from './turn.ts';

/** Owed, or may become so: done, in flight, or given up and not settled yet. */
function obligations(state: SagaState): StepState[] {
  const all = state.phase === 'compensating' || state.phase === 'aborting';
  return Object.values(state.steps).filter(
    (step) =>
      step.class === 'compensatable' &&
      (all || step.givenUp !== undefined || step.compensate !== undefined),
  );
}

function isOwed(step: StepState): boolean {
  return step.completedVersion !== undefined && step.compensate === undefined;
}

/** B must be compensated before A: A's success was known when B was requested. */
function precedes(a: StepState, b: StepState): boolean {
  return a.completedVersion !== undefined && a.completedVersion < b.requestedVersion;
}

/** Requests every compensation whose turn it is; ends the phase when nothing is owed. */
export function pumpObligations(turn: Turn): void {
  const owing = obligations(turn.state);
  const ready = owing
    .filter(
      (step) => isOwed(step) && !owing.some((other) => other !== step && precedes(step, other)),
    )
    .sort((a, b) => (b.completedVersion ?? 0) - (a.completedVersion ?? 0));
  for (const step of ready) requestCompensation(turn, step);
  const pivotOpen = Object.values(turn.state.steps).some((step) => step.class === 'pivot');
  if (owing.length === 0 && !pivotOpen) obligationsDischarged(turn);
}

function requestCompensation(turn: Turn, step: StepState): void {
  const spec = stepSpec(turn, step);
  const input = compensationInput(spec, step, rulesOf(turn.state));
  const commandId = `${step.commandId}.c`;
  step.compensate = { commandId, status: 'open', attempt: 1, budgetFrom: 0, input };
  emit(turn, {
    type: 'CompensationRequested',
    commandId,
    of: step.commandId,
    command: spec.compensation?.contract.name ?? '',
    input,
    ...trace(turn.state),
  });
}

/** JSON that a compensation's mapping gave; a mapping that throws is the definition's fault. */
function compensationInput(spec: StepSpec, step: StepState, rules: number): Json {
  const compensation = spec.compensation;
  if (compensation === null)
    throw new DefinitionFault('MACHINE_FAULT', `Step "${step.step}" has no compensation.`);
  const given = rules > 1 ? inputAsParsed(spec, step) : step.input;
  let mapped: unknown;
  try {
    // A copy, so that a mapping that sorts or reverses in place changes no event (I9).
    mapped = compensation.input(sortedCopy({ input: given, output: step.output }));
  } catch (error) {
    throw new DefinitionFault(
      'MACHINE_FAULT',
      `The compensation mapping of step "${step.step}" threw: ${wordsOf(error)}`,
      { cause: error },
    );
  }
  const what = `The compensation input of step "${step.step}" for ${compensation.contract.name}`;
  const input = toJson(mapped, what);
  const checked = fit(compensation.contract.input, input, what);
  if ('misfit' in checked) throw new DefinitionFault('MACHINE_FAULT', checked.misfit);
  assertSendable(input, what);
  return input;
}

/**
 * The step's input as its schema gives it, defaults filled in: what a mapping is typed with, and what is passed on
 * without one. The log has what was sent, so it is parsed again, and the schema must give the same each time (I9).
 */
function inputAsParsed(spec: StepSpec, step: StepState): Json {
  const what = `The input of step "${step.step}"`;
  const parsed = fit(spec.contract.input, sortedCopy(step.input), what);
  if ('misfit' in parsed) throw new DefinitionFault('MACHINE_FAULT', parsed.misfit);
  return parsed.data;
}

export function announceCompensation(turn: Turn, reason: Failure | null): void {
  const owed = stepsOf(turn.state)
    .filter((step) => step.class === 'compensatable')
    .map((step) => step.commandId);
  emit(turn, { type: 'CompensationStarted', reason, owed });
}

/** Actor ids of the compensateAll() that wait, in the order in which they were invoked. */
export function waitingCompensators(state: SagaState): string[] {
  const { compensateActorId: first, furtherCompensateActorIds: further = [] } = state;
  return first === undefined ? [] : [first, ...further];
}

export function setWaitingCompensators(state: SagaState, actorIds: readonly string[]): void {
  const [first, ...further] = actorIds;
  if (first === undefined) delete state.compensateActorId;
  else state.compensateActorId = first;
  if (further.length === 0) delete state.furtherCompensateActorIds;
  else state.furtherCompensateActorIds = further;
}

/** The machine waits no more in those that it has left; with the last of them the saga goes forward again. */
export function leaveCompensation(state: SagaState, isLeft: (actorId: string) => boolean): void {
  const waiting = waitingCompensators(state);
  const rest = waiting.filter((actorId) => !isLeft(actorId));
  if (rest.length === waiting.length) return;
  setWaitingCompensators(state, rest);
  if (rest.length === 0) state.phase = 'forward';
}

/** Called when the phase's obligations are discharged. */
function obligationsDischarged(turn: Turn): void {
  const { state } = turn;
  switch (state.phase) {
    case 'compensating': {
      const waiting = waitingCompensators(state);
      leaveCompensation(state, () => true);
      state.compensated = true;
      emit(turn, { type: 'CompensationDone' });
      for (const actorId of waiting) queueDone(turn, actorId, null);
      return;
    }
    case 'aborting':
      state.compensated = true;
      emit(turn, { type: 'CompensationDone' });
      end(turn);
      return;
    case 'closing':
      end(turn);
      return;
    case 'forward':
    case 'ended':
      return;
  }
}

function end(turn: Turn): void {
  const { state } = turn;
  const output = state.machine?.output ?? null;
  state.phase = 'ended';
  state.endedAt = turn.now;
  state.output = output;
  state.steps = {};
  state.deferred = [];
  if (state.compensated) {
    const reason = state.failure ?? state.lastFailure ?? null;
    if (reason !== null) state.failure = reason;
    emit(turn, { type: 'SagaCompensated', output, reason });
  } else {
    emit(turn, { type: 'SagaCompleted', output });
  }
}
