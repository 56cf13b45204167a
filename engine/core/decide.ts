/**
 * `decide`: what one input makes of a saga: the events to append and the state after them.
 *
 * Guards I4, I5 and I9: an input is taken at most once, nothing follows the end, late and forged
 * answers change nothing, and what is decided is what `evolve` would fold from the same events.
 * Pure and synchronous: time comes in as an argument; ids are derived.
 */
import { opOf } from './calls.ts';
import { answersCall, concernsMachine, findCall, refusesPivot, replacesFaulted } from './causes.ts';
import type { AnyDefinition, SignalSchemas } from './define.ts';
import { DefinitionFault, ReplayDivergence, type ErrorCode } from './errors.ts';
import type { CauseEvent, Failure, OperatorAction, SagaEvent } from './events.ts';
import { evolve, nextDeferred, seenIdOf } from './evolve.ts';
import { fit, wordsOf } from './fit.ts';
import { fitOutput, translateReply, type Translation } from './replies.ts';
import { earliestDue, isEnded, machineIsOpen, RULES, type Due, type SagaState } from './state.ts';
import type { InboxInput } from './wire.ts';

/** `wake`: something of the saga may be due. Everything else comes from the inbox. */
export type SagaInput = InboxInput | { type: 'wake' };

export type Decision =
  | { kind: 'accepted'; events: SagaEvent[]; state: SagaState }
  /** A repeat, a late answer, or nothing due: no event, and nothing is wrong. */
  | { kind: 'ignored'; why: string }
  /** It can't be applied, now or later: a dead letter, with its reason. */
  | { kind: 'refused'; code: ErrorCode; why: string };

/**
 * Signals held back for one saga beyond which more are refused (dead letters, to be redriven). All of them are
 * applied in one decision when the saga goes on, about 50 ms of a shard's time for as many.
 */
const MAX_DEFERRED_SIGNALS = 1_000;
/** Answers and verbs are few and may not be crowded out by signals: they have as much room again. */
const MAX_DEFERRED = 2_000;
/** Sum of the signals held back, in characters of JSON: with the count alone they could be a gigabyte. */
const MAX_DEFERRED_SIGNAL_LENGTH = 16_000_000;
/** Signals that one saga accepts in its life; each one's id is kept to drop repeats. */
const MAX_SEEN_SIGNALS = 10_000;
/** With room for cancels and verbs: a saga that took all its signals can still be paused and cancelled. */
const MAX_SEEN_IDS = 11_000;

/**
 * @param state null when the stream has no event yet
 * @param now ms since the epoch by the database's clock
 */
export function decide(
  definition: AnyDefinition,
  sagaId: string,
  state: SagaState | null,
  input: SagaInput,
  now: number,
): Decision {
  const translation = translate(definition, state, input, now);
  if ('ignored' in translation) return { kind: 'ignored', why: translation.ignored };
  if ('refused' in translation)
    return { kind: 'refused', code: translation.refused, why: translation.why };
  const { cause } = translation;
  const first = state === null ? cause : gate(state, cause);
  if (first.type === 'InputDeferred' && isFull(state, cause)) {
    return {
      kind: 'refused',
      code: 'OVERLOADED',
      why: 'As many inputs as may be, or as large ones, are held back for this saga already.',
    };
  }
  const events: SagaEvent[] = [];
  let next = take(definition, sagaId, state, first, now, events);
  for (let due = nextDeferred(next); due !== undefined; due = nextDeferred(next)) {
    next = take(definition, sagaId, next, due, now, events);
  }
  return { kind: 'accepted', events, state: next };
}

function isFull(state: SagaState | null, cause: CauseEvent): boolean {
  if (state === null) return false;
  // Answers are never refused for their size: a participant does not say them twice.
  if (cause.type !== 'SignalReceived') return state.deferred.length >= MAX_DEFERRED;
  if (state.deferred.length >= MAX_DEFERRED_SIGNALS) return true;
  let length = lengthOf(cause);
  for (const held of state.deferred) if (held.type === 'SignalReceived') length += lengthOf(held);
  return length > MAX_DEFERRED_SIGNAL_LENGTH;
}

/** Lengths of causes that are held back, which are not changed: each is put into words once, not at every input. */
const lengths = new WeakMap<CauseEvent, number>();

/** Characters of a cause as JSON; the order of its keys, which the log does not keep, has no part in it. */
function lengthOf(cause: CauseEvent): number {
  const known = lengths.get(cause);
  if (known !== undefined) return known;
  const { length } = JSON.stringify(cause);
  lengths.set(cause, length);
  return length;
}

/** Appends a cause with its consequences; when code throws on it, that fact instead. */
function take(
  definition: AnyDefinition,
  sagaId: string,
  state: SagaState | null,
  cause: CauseEvent,
  now: number,
  events: SagaEvent[],
): SagaState {
  try {
    return append(definition, sagaId, state, cause, now, events);
  } catch (error) {
    if (error instanceof ReplayDivergence) throw error;
    // A defect of the engine is a fault of this saga too: it rests, is shown, and goes on once mended.
    const code = error instanceof DefinitionFault ? error.code : 'INTERNAL';
    const failure: Failure = { code, message: wordsOf(error) };
    return append(definition, sagaId, state, { type: 'InputFaulted', cause, failure }, now, events);
  }
}

function append(
  definition: AnyDefinition,
  sagaId: string,
  state: SagaState | null,
  cause: CauseEvent,
  now: number,
  events: SagaEvent[],
): SagaState {
  const after = evolve(definition, sagaId, state, cause, now);
  const consequences = after.expected;
  let next = after;
  for (const consequence of consequences) next = evolve(definition, sagaId, next, consequence, now);
  events.push(cause, ...consequences);
  return next;
}

/** Holds a cause for the machine back while the saga is paused, faulted, or in its pivot. */
function gate(state: SagaState, cause: CauseEvent): CauseEvent {
  if (passesGate(state, cause)) return cause;
  return { type: 'InputDeferred', cause };
}

function passesGate(state: SagaState, cause: CauseEvent): boolean {
  // It only moves a due time; kept back, a handler's heartbeats would pile up over a long pause.
  if (cause.type === 'StepHeartbeat') return true;
  if (cause.type === 'OperatorActed' && !answersCall(cause.action)) return true;
  if (replacesFaulted(state, cause)) return !state.paused;
  if (cause.type === 'CancelRequested' && state.faulted !== undefined && !state.paused) {
    // The way out of a fault, but for the pivot's: while that may have succeeded, a cancel waits (I7).
    return state.pivot !== 'inFlight' || refusesPivot(state, state.faulted.cause);
  }
  if (machineIsOpen(state) && state.deferred.length === 0) return true;
  return !state.paused && state.faulted === undefined && !concernsMachine(state, cause);
}

function translate(
  definition: AnyDefinition,
  state: SagaState | null,
  input: SagaInput,
  now: number,
): Translation {
  if (input.type === 'start') return translateStart(definition, state, input.body);
  if (state === null) {
    if (input.type === 'wake') return { ignored: 'there is no such saga' };
    return { refused: 'SAGA_UNKNOWN', why: 'No saga with this id has been started.' };
  }
  if (isEnded(state)) return { ignored: 'the saga has ended' };
  switch (input.type) {
    case 'wake': {
      const due = earliestDue(state);
      return due === null || due.at > now
        ? { ignored: 'nothing is due' }
        : { cause: dueCause(due) };
    }
    case 'reply':
      return translateReply(definition, state, input.body, input.service);
    case 'signal':
      return translateSignal(definition, state, input.body);
    case 'cancel': {
      const { requestId, reason, by } = input.body;
      return once(state, { type: 'CancelRequested', requestId, reason, by });
    }
    case 'operator':
      return translateVerb(definition, state, input.body);
  }
}

function translateVerb(
  definition: AnyDefinition,
  state: SagaState,
  body: Extract<InboxInput, { type: 'operator' }>['body'],
): Translation {
  const { requestId, by, reason } = body;
  const action = body.action as OperatorAction;
  // First of all a repeat: what it asked for has been done, so it would not fit any more.
  const taken = once(state, { type: 'OperatorActed', requestId, action, by, reason });
  if (!('cause' in taken)) return taken;
  const misfit = operatorMisfit(state, action);
  if (misfit !== null) return { refused: 'COMMAND_UNKNOWN', why: misfit };
  const answer = fitAnswer(definition, state, action);
  return 'misfit' in answer
    ? { refused: 'INPUT_INVALID', why: answer.misfit }
    : { cause: { ...taken.cause, action: answer.action } as CauseEvent };
}

/** An answer by hand as its contract has it: the step's `onDone` and its compensation's mapping read the output. */
function fitAnswer(
  definition: AnyDefinition,
  state: SagaState,
  action: OperatorAction,
): { action: OperatorAction } | { misfit: string } {
  // A compensation's own output is read by nobody.
  if (action.verb !== 'resolve' || opOf(action.commandId) === 'compensate') return { action };
  const stepName = findCall(state, action.commandId)?.step.step ?? '';
  const output = fitOutput(definition, stepName, action.output);
  return 'data' in output ? { action: { ...action, output: output.data } } : output;
}

function once(state: SagaState, cause: CauseEvent): Translation {
  const id = seenIdOf(cause);
  if (id !== undefined && state.seenIds.includes(id)) return { ignored: 'a repeat' };
  const limit = cause.type === 'SignalReceived' ? MAX_SEEN_SIGNALS : MAX_SEEN_IDS;
  if (state.seenIds.length >= limit) {
    return { refused: 'OVERLOADED', why: `The saga has taken ${limit}, the most it may.` };
  }
  return { cause };
}

function translateStart(
  definition: AnyDefinition,
  state: SagaState | null,
  body: Extract<InboxInput, { type: 'start' }>['body'],
): Translation {
  if (state !== null) return { ignored: 'the saga was started before' };
  return {
    cause: {
      type: 'SagaStarted',
      namespace: body.namespace,
      definition: body.definition,
      definitionVersion: body.definitionVersion,
      definitionHash: definition.hash,
      rules: RULES,
      input: body.input,
      ...(body.businessKey === undefined ? {} : { businessKey: body.businessKey }),
      ...(body.attributes === undefined ? {} : { attributes: body.attributes }),
      ...(body.traceparent === undefined ? {} : { traceparent: body.traceparent }),
    },
  };
}

function translateSignal(
  definition: AnyDefinition,
  state: SagaState,
  body: Extract<InboxInput, { type: 'signal' }>['body'],
): Translation {
  const signals = definition.signals as SignalSchemas;
  // Own names only: `toString` is no signal.
  const schema = Object.hasOwn(signals, body.name) ? signals[body.name] : undefined;
  if (schema === undefined) {
    const known = Object.keys(signals).join(', ') || 'none';
    return {
      refused: 'SIGNAL_UNKNOWN',
      why: `${definition.name}@${definition.version} declares no signal "${body.name}"; it has: ${known}.`,
    };
  }
  const payload = fit(schema, body.payload ?? {}, `The payload of signal "${body.name}"`);
  if ('misfit' in payload) return { refused: 'INPUT_INVALID', why: payload.misfit };
  return once(state, {
    type: 'SignalReceived',
    signalId: body.signalId,
    name: body.name,
    payload: payload.data,
  });
}

function dueCause(due: Due): CauseEvent {
  switch (due.kind) {
    case 'timer':
      return { type: 'TimerFired', timerId: due.timerId };
    case 'retry':
      return { type: 'RetryDue', commandId: due.commandId, attempt: due.attempt };
    case 'deadline':
      return {
        type: 'StepTimedOut',
        commandId: due.commandId,
        failure: { code: 'STEP_TIMED_OUT', message: "No answer came before the step's deadline." },
      };
    case 'heartbeat':
      return {
        type: 'StepFailed',
        commandId: due.commandId,
        attempt: due.attempt,
        failure: {
          code: 'HEARTBEAT_MISSED',
          message: 'The handler fell silent for longer than its heartbeat timeout.',
        },
        retryable: true,
      };
  }
}

function operatorMisfit(state: SagaState, action: OperatorAction): string | null {
  switch (action.verb) {
    case 'pause':
      return state.paused ? 'The saga is paused already.' : null;
    case 'resume':
      return state.paused ? null : 'The saga is not paused.';
    case 'retry':
      if (action.commandId === undefined)
        return state.faulted === undefined ? 'No input of the saga is faulted.' : null;
      return stuckMisfit(state, action.commandId);
    case 'resolve':
      return findCall(state, action.commandId) === undefined
        ? `Nothing awaits an answer for ${action.commandId}.`
        : null;
    case 'skip':
      return stuckMisfit(state, action.commandId);
  }
}

function stuckMisfit(state: SagaState, commandId: string): string | null {
  const found = findCall(state, commandId);
  if (found === undefined) return `Nothing awaits an answer for ${commandId}.`;
  return found.call.status === 'stuck' ? null : `${commandId} is ${found.call.status}, not stuck.`;
}
