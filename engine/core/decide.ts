/**
 * `decide`: what one input makes of a saga: the events to append and the state after them.
 *
 * Guards I4, I5 and I9: an input is taken at most once, nothing follows the end, late and forged
 * answers change nothing, and what is decided is what `evolve` would fold from the same events.
 * Pure and synchronous: time comes in as an argument; ids are derived.
 */
import { concernsMachine, findCall } from './causes.ts';
import type { AnyDefinition } from './define.ts';
import { DefinitionFault, ReplayDivergence, type ErrorCode } from './errors.ts';
import type { CauseEvent, Failure, OperatorAction, SagaEvent } from './events.ts';
import { evolve, nextDeferred, seenIdOf } from './evolve.ts';
import { toJson } from './json.ts';
import { translateReply } from './replies.ts';
import { earliestDue, isEnded, machineIsOpen, type Due, type SagaState } from './state.ts';
import type { InboxInput } from './wire.ts';

/** `wake`: something of the saga may be due. Everything else comes from the inbox. */
export type SagaInput = InboxInput | { type: 'wake' };

export type Decision =
  | { kind: 'accepted'; events: SagaEvent[]; state: SagaState }
  /** A repeat, a late answer, or nothing due: no event, and nothing is wrong. */
  | { kind: 'ignored'; why: string }
  /** It can't be applied, now or later: a dead letter, with its reason. */
  | { kind: 'refused'; code: ErrorCode; why: string };

/** What an input comes to before anything is applied. */
export type Translation =
  { cause: CauseEvent } | { ignored: string } | { refused: ErrorCode; why: string };

/** Inputs held back for one saga beyond which more are refused (dead letters, to be redriven). */
const MAX_DEFERRED = 10_000;
/** Signals and verbs that one saga accepts in its life; each one's id is kept to drop repeats. */
const MAX_SEEN_IDS = 10_000;

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
  const events: SagaEvent[] = [];
  let next = take(
    definition,
    sagaId,
    state,
    state === null ? cause : gate(state, cause),
    now,
    events,
  );
  for (let due = nextDeferred(next); due !== undefined; due = nextDeferred(next)) {
    next = take(definition, sagaId, next, due, now, events);
  }
  return { kind: 'accepted', events, state: next };
}

/** Appends a cause with its consequences; when the machine's own code throws on it, that fact instead. */
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
    if (!(error instanceof DefinitionFault) || error instanceof ReplayDivergence) throw error;
    const failure: Failure = { code: error.code, message: error.message };
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
  if (cause.type === 'OperatorActed') return cause;
  if (cause.type === 'CancelRequested' && state.faulted !== undefined && !state.paused)
    return cause;
  if (machineIsOpen(state) && state.deferred.length === 0) return cause;
  if (!state.paused && state.faulted === undefined && !concernsMachine(state, cause)) return cause;
  return { type: 'InputDeferred', cause };
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
  if (state.deferred.length >= MAX_DEFERRED && input.type !== 'operator') {
    return {
      refused: 'OVERLOADED',
      why: `${MAX_DEFERRED} inputs are held back for this saga already.`,
    };
  }
  switch (input.type) {
    case 'wake': {
      const due = earliestDue(state);
      return due === null || due.at > now
        ? { ignored: 'nothing is due' }
        : { cause: dueCause(due) };
    }
    case 'reply':
      return translateReply(definition, state, input.body);
    case 'signal':
      return translateSignal(definition, state, input.body);
    case 'cancel': {
      const { requestId, reason, by } = input.body;
      return once(state, { type: 'CancelRequested', requestId, reason, by });
    }
    case 'operator': {
      const { requestId, action, by, reason } = input.body;
      const misfit = operatorMisfit(state, action as OperatorAction);
      if (misfit !== null) return { refused: 'COMMAND_UNKNOWN', why: misfit };
      return once(state, {
        type: 'OperatorActed',
        requestId,
        action: action as OperatorAction,
        by,
        reason,
      });
    }
  }
}

function once(state: SagaState, cause: CauseEvent): Translation {
  const id = seenIdOf(cause);
  if (id !== undefined && state.seenIds.includes(id)) return { ignored: 'a repeat' };
  if (state.seenIds.length >= MAX_SEEN_IDS) {
    return {
      refused: 'OVERLOADED',
      why: `The saga has taken ${MAX_SEEN_IDS} signals and verbs, the most one may.`,
    };
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
  const schema = (
    definition.signals as {
      [name: string]: {
        safeParse(value: unknown): { success: boolean; data?: unknown; error?: Error };
      };
    }
  )[body.name];
  if (schema === undefined) {
    const known = Object.keys(definition.signals).join(', ') || 'none';
    return {
      refused: 'SIGNAL_UNKNOWN',
      why: `${definition.name}@${definition.version} declares no signal "${body.name}"; it has: ${known}.`,
    };
  }
  const parsed = schema.safeParse(body.payload ?? {});
  if (!parsed.success)
    return { refused: 'INPUT_INVALID', why: parsed.error?.message ?? 'The payload does not fit.' };
  return once(state, {
    type: 'SignalReceived',
    signalId: body.signalId,
    name: body.name,
    payload: toJson(parsed.data, `The payload of signal "${body.name}"`),
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
