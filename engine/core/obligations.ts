/**
 * What is owed, and in which order it is taken back.
 *
 * Guards I6: compensation runs for exactly what was done or may have been done, in reverse of the
 * partial order: if A was known done before B was requested, B is compensated before A. Steps that
 * overlapped have no order between them and are compensated side by side.
 */
import {
  compensationInput,
  emit,
  obligationsDischarged,
  stepSpec,
  trace,
  type Turn,
} from './turn.ts';
import type { SagaState, StepState } from './state.ts';

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
  const input = compensationInput(spec, step);
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
