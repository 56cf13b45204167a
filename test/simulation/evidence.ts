/**
 * What a run leaves behind, as the checker sees it: the log, the order of appends and take-overs, what
 * was on the bus, what participants really did, and what was accepted from the outside.
 */
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { LoggedEvent, SagaEvent } from '../../engine/core/events.ts';
import type { DeadLetter, ReceivedMessage, SagaSnapshot, SagaSummary } from '../../engine/ports.ts';
import type { ShardRow } from '../../engine/memory/database.ts';
import type { Shown } from './onlookers.ts';
import type { LedgerEntry } from './participants.ts';
import type { LiveState } from './witness.ts';

export const INVARIANTS = [
  'I1',
  'I2',
  'I3',
  'I4',
  'I5',
  'I6',
  'I7',
  'I8',
  'I9',
  'I10',
  'I11',
  'I12',
  'I13',
] as const;
export type Invariant = (typeof INVARIANTS)[number];

export interface Violation {
  /** `defect`: the runtime itself reported a bug of its own. */
  invariant: Invariant | 'defect';
  sagaId: string | null;
  /** What was found, in words. */
  what: string;
}

/** Take-overs and appends in the order in which the database took them. */
export type Entry =
  | { kind: 'acquired'; shard: number; epoch: number; at: number }
  | {
      kind: 'appended';
      shard: number;
      epoch: number;
      at: number;
      nextOffset: bigint | null;
      events: { sagaId: string; streamVersion: number; shardSeq: number; epoch: number }[];
      summaries: readonly SagaSummary[];
      snapshots: readonly SagaSnapshot[];
    };

/** An input that was answered with "accepted": its publish had resolved. */
export interface AcceptedInput {
  kind: 'start' | 'signal' | 'cancel' | 'operator';
  sagaId: string;
  /** Id of the signal or request; of the saga for a start. */
  id: string;
}

export interface Evidence {
  /** As they stand in the log, shard by shard. */
  shardEvents: readonly (readonly LoggedEvent[])[];
  /** As they stand in the log, stream by stream. */
  streams: ReadonlyMap<string, readonly LoggedEvent[]>;
  entries: readonly Entry[];
  shards: readonly ShardRow[];
  deadLetters: readonly DeadLetter[];
  summaries: ReadonlyMap<string, SagaSummary>;
  /** By saga: states that engines held, in the order in which they were committed or read back. */
  live: ReadonlyMap<string, readonly LiveState[]>;
  /** What readers were shown of streams. */
  shown: readonly Shown[];
  accepted: readonly AcceptedInput[];
  /** Start key → the sagas that requests with it were answered with. */
  keyed: ReadonlyMap<string, ReadonlySet<string>>;
  inbox: readonly ReceivedMessage[];
  commands: readonly ReceivedMessage[];
  domainEvents: readonly ReceivedMessage[];
  /** Command id → what the participant really did. */
  ledger: ReadonlyMap<string, LedgerEntry>;
  /** Snowflake ids in the order in which each process made them. */
  ids: readonly { process: string; id: string }[];
  definitions: readonly AnyDefinition[];
  topicPrefix: string;
  commandPartitions: number;
  /** Errors that the runtime logged as such. */
  defects: readonly string[];
}

/** One step as its stream tells it, read without the engine's own code. Numbers are stream versions. */
export interface StepStory {
  id: string;
  class: string;
  requested: number;
  /** Its success became known. */
  done?: number;
  /** It was rejected, or settled as never having run. */
  closed?: number;
  /** The machine stopped waiting for it. */
  givenUp?: number;
  settlementRequested?: number;
  compensationRequested?: number;
  compensated?: number;
  /** A person decided about the step, its settlement or its compensation. */
  byHand: boolean;
  compensatedByHand: boolean;
}

export interface SagaStory {
  sagaId: string;
  events: readonly LoggedEvent[];
  steps: StepStory[];
  /** Version at which the pivot's success became known. */
  pivotPassed: number | null;
  terminal: { version: number; type: 'SagaCompleted' | 'SagaCompensated' } | null;
}

const stepIdOf = (commandId: string): string => commandId.replace(/\.[cs]$/, '');

/** Reads a stream into what happened to each of its steps. */
export function storyOf(sagaId: string, events: readonly LoggedEvent[]): SagaStory {
  const steps = new Map<string, StepStory>();
  const story: SagaStory = { sagaId, events, steps: [], pivotPassed: null, terminal: null };
  for (const { event, streamVersion } of events) {
    if (event.type === 'StepRequested') {
      steps.set(event.commandId, {
        id: event.commandId,
        class: event.class,
        requested: streamVersion,
        byHand: false,
        compensatedByHand: false,
      });
    } else if (event.type === 'SagaCompleted' || event.type === 'SagaCompensated') {
      story.terminal ??= { version: streamVersion, type: event.type };
    } else {
      const id = commandIdIn(event);
      const step = id === undefined ? undefined : steps.get(stepIdOf(id));
      if (step !== undefined) tell(step, event, streamVersion);
    }
  }
  story.steps = [...steps.values()];
  for (const step of story.steps) {
    if (step.class === 'pivot' && step.done !== undefined) story.pivotPassed = step.done;
  }
  return story;
}

function commandIdIn(event: SagaEvent): string | undefined {
  if (event.type === 'OperatorActed') {
    const { action } = event;
    return 'commandId' in action ? action.commandId : undefined;
  }
  if (event.type === 'CompensationRequested' || event.type === 'SettlementRequested') {
    return event.of;
  }
  return 'commandId' in event ? event.commandId : undefined;
}

function tell(step: StepStory, event: SagaEvent, version: number): void {
  switch (event.type) {
    case 'StepSucceeded':
      step.done = version;
      return;
    case 'StepRejected':
      // A retriable step has no business "no": it gets stuck with it, and goes on waiting.
      if (step.class !== 'retriable') step.closed = version;
      return;
    case 'StepGivenUp':
    case 'StepSuperseded':
      step.givenUp = version;
      return;
    case 'SettlementRequested':
      step.settlementRequested = version;
      return;
    case 'StepSettled':
      if (event.settlement.outcome === 'succeeded') step.done = version;
      else step.closed = version;
      return;
    case 'CompensationRequested':
      step.compensationRequested ??= version;
      return;
    case 'CompensationSucceeded':
      step.compensated = version;
      return;
    case 'OperatorActed':
      tellVerb(step, event.action, version);
      return;
    default:
      return;
  }
}

function tellVerb(
  step: StepStory,
  action: Extract<SagaEvent, { type: 'OperatorActed' }>['action'],
  version: number,
): void {
  if (action.verb !== 'resolve' && action.verb !== 'skip') return;
  if (action.commandId.endsWith('.c')) {
    step.compensated = version;
    step.compensatedByHand = true;
    return;
  }
  step.byHand = true;
  if (action.commandId.endsWith('.s') && action.verb === 'skip') step.closed = version;
  else step.done = version;
}
