/**
 * The events of a saga's stream: facts, in the past tense, that nothing may change later.
 *
 * A **cause** is an input that was accepted (a start, a reply, a signal, a due timer, a verb). What
 * follows from it, its **consequences**, is computed by the pure core and logged behind it in the
 * same batch, so a replay that gives other consequences than the log has is detected (I9).
 * All times are milliseconds since the Unix epoch by the database's clock.
 */
import type { Json } from './json.ts';

/** What a participant is asked for: run the step, compensate it, or say for good what became of it. */
export type CommandOp = 'do' | 'compensate' | 'settle';

export type StepClass = 'compensatable' | 'pivot' | 'retriable' | 'readOnly';

/** Why something did not succeed: a stable code and words for a person. */
export interface Failure {
  code: string;
  message: string;
  data?: Json;
}

/** What a settlement found: the step ran (with its answer), was rejected, or never ran and never will. */
export type Settlement =
  | { outcome: 'succeeded'; output: Json }
  | { outcome: 'rejected'; failure: Failure }
  | { outcome: 'neverRan' };

export type CauseEvent =
  | {
      type: 'SagaStarted';
      namespace: string;
      definition: string;
      definitionVersion: number;
      definitionHash: string;
      /** The core's rules that it runs by to its end (`RULES` in state.ts); absent: 1. */
      rules?: number;
      input: Json;
      businessKey?: string;
      attributes?: { [name: string]: string | number | boolean };
      traceparent?: string;
    }
  | { type: 'StepSucceeded'; commandId: string; attempt: number; output: Json }
  | { type: 'StepRejected'; commandId: string; attempt: number; failure: Failure }
  | { type: 'StepFailed'; commandId: string; attempt: number; failure: Failure; retryable: boolean }
  | { type: 'StepPending'; commandId: string; attempt: number }
  | { type: 'StepHeartbeat'; commandId: string; attempt: number; details?: Json }
  | { type: 'StepTimedOut'; commandId: string; failure: Failure }
  | { type: 'StepSettled'; commandId: string; settlement: Settlement }
  | {
      type: 'SettlementFailed';
      commandId: string;
      attempt: number;
      failure: Failure;
      retryable: boolean;
    }
  | { type: 'CompensationSucceeded'; commandId: string; attempt: number; output: Json }
  | {
      type: 'CompensationFailed';
      commandId: string;
      attempt: number;
      failure: Failure;
      retryable: boolean;
    }
  | { type: 'RetryDue'; commandId: string; attempt: number }
  | { type: 'TimerFired'; timerId: string }
  | { type: 'SignalReceived'; signalId: string; name: string; payload: Json }
  | { type: 'CancelRequested'; requestId: string; reason: string; by: string }
  | { type: 'OperatorActed'; requestId: string; action: OperatorAction; by: string; reason: string }
  /** Accepted, but held back while the saga is paused or its pivot is in flight; applied later, in order. */
  | { type: 'InputDeferred'; cause: CauseEvent }
  /** The machine's own code threw on this cause; it was not applied, and an operator's retry applies it. */
  | { type: 'InputFaulted'; cause: CauseEvent; failure: Failure };

/** What an operator can do with a saga. `commandId` is that of the stuck command. */
export type OperatorAction =
  | { verb: 'pause' }
  | { verb: 'resume' }
  /** Fresh attempts for a stuck command, or for the faulted input when no command is named. */
  | { verb: 'retry'; commandId?: string }
  /** Take it as done, by hand: a step's output, or a compensation or settlement as given. */
  | { verb: 'resolve'; commandId: string; output?: Json }
  /** Take a stuck compensation as not needed, or a stuck retriable step as not needed. */
  | { verb: 'skip'; commandId: string };

export type ConsequenceEvent =
  | {
      type: 'StepRequested';
      commandId: string;
      /** Name of the actor in the definition (`src`), and the id of the invoking child. */
      step: string;
      actorId: string;
      class: StepClass;
      command: string;
      input: Json;
      /** The command that will compensate it; the obligation stands from here on (obligation first). */
      compensateWith?: string;
      deadlineAt?: number;
      traceparent?: string;
    }
  | { type: 'RetryScheduled'; commandId: string; attempt: number; dueAt: number }
  | { type: 'StepGivenUp'; commandId: string; failure: Failure }
  | { type: 'StepSuperseded'; commandId: string }
  /** Outbox events are whole: the relay needs nothing but the event to publish its command. */
  | {
      type: 'CommandRetried';
      commandId: string;
      op: CommandOp;
      of?: string;
      attempt: number;
      command: string;
      input: Json;
      deadlineAt?: number;
      traceparent?: string;
    }
  | {
      type: 'SettlementRequested';
      commandId: string;
      of: string;
      command: string;
      traceparent?: string;
    }
  | { type: 'TimerSet'; timerId: string; dueAt: number }
  | { type: 'TimerCleared'; timerId: string }
  | { type: 'DomainEventEmitted'; event: { type: string; [key: string]: Json } }
  | { type: 'CompensationStarted'; reason: Failure | null; owed: string[] }
  | {
      type: 'CompensationRequested';
      commandId: string;
      of: string;
      command: string;
      input: Json;
      traceparent?: string;
    }
  | { type: 'CompensationDone' }
  | { type: 'CancelRefused'; requestId: string; failure: Failure }
  | { type: 'SagaPaused' }
  | { type: 'SagaResumed' }
  | { type: 'SagaStuck'; commandId?: string; failure: Failure }
  | { type: 'SagaUnstuck'; commandId?: string }
  | { type: 'SagaCompleted'; output: Json }
  | { type: 'SagaCompensated'; output: Json; reason: Failure | null };

export type SagaEvent = CauseEvent | ConsequenceEvent;
export type SagaEventType = SagaEvent['type'];

/** Events that end a stream: nothing follows them (I5). */
export const TERMINAL_EVENTS: ReadonlySet<SagaEventType> = new Set([
  'SagaCompleted',
  'SagaCompensated',
]);

/** An event where it stands in the log. Ids are decimal strings. */
export interface LoggedEvent {
  sagaId: string;
  namespace: string;
  /** 1..n without a gap (I1). */
  streamVersion: number;
  shard: number;
  /** 1..n per shard without a gap (I1), the order in which the relay publishes. */
  shardSeq: number;
  /** The epoch of the lease under which it was appended (I2). */
  epoch: number;
  at: number;
  event: SagaEvent;
}

/** Status of a saga as its summary shows it. `stuck` and `paused` are not terminal. */
export type SagaStatus =
  'running' | 'compensating' | 'paused' | 'stuck' | 'completed' | 'compensated';
export const TERMINAL_STATUSES: ReadonlySet<SagaStatus> = new Set(['completed', 'compensated']);
