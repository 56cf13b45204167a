/**
 * What the ways of running a command have in common: its verdict, its barrier row, its reply.
 *
 * Guards that an answer that was given once is the answer from then on: a row that is there is never
 * changed here but by taking over a claim whose lease has ended.
 */
import type { Failure } from '../engine/core/events.ts';
import type { CommandBody, ReplyBody } from '../engine/core/wire.ts';
import type { BusMessage, Clock } from '../engine/ports.ts';
import { CommandFailure } from './failures.ts';
import type { Handler, Log } from './handlers.ts';
import type { WorkerMetrics } from './metrics.ts';
import type { Pace } from './pace.ts';
import type { Trust } from './trust.ts';
import type {
  Answer,
  Barrier,
  BarrierEntry,
  BarrierRow,
  Original,
  ParticipantStore,
} from './ports.ts';
import type { Slots } from './slots.ts';

export interface ExecuteDeps<Tx> {
  readonly service: string;
  readonly handlers: ReadonlyMap<string, Handler<Tx>>;
  readonly store: ParticipantStore<Tx>;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: WorkerMetrics;
  readonly pace: Pace;
  readonly trust: Trust;
  /** What runs at once: commands by themselves, and batches. */
  readonly slots: Slots;
  /** Longest time that a transactional handler may hold its transaction, in ms. */
  readonly transactionTimeoutMs: number;
  /** The reply as it is sent. @throws SagaxError PAYLOAD_REFUSED when it could not be; called before it is stored. */
  readonly encode: (reply: ReplyBody, command: CommandBody) => BusMessage;
  /** Sends a heartbeat reply as well as it can; never waits, never throws. */
  readonly sendHeartbeat: (reply: ReplyBody, command: CommandBody) => void;
}

/** What became of a command, before it is worded as the reply to a do, a compensation or a settlement. */
export type Verdict =
  Answer | { state: 'pending' } | { state: 'superseded' } | { state: 'neverRan' };

/** What became of it, and its reply where it is made already. `published`: it went out with the answer's commit. */
export interface Told {
  verdict: Verdict;
  repeated: boolean;
  message?: BusMessage;
  published?: boolean;
}

/** `lost`: another worker took the command over, and answers it. */
export type Ran = Told | 'lost';

/** A handler about to run, and the barrier row that it runs under. */
export interface Target<Tx> {
  readonly entry: BarrierEntry;
  readonly handler: Handler<Tx>;
  /** The command that came; its id differs from the entry's for a settlement. */
  readonly command: CommandBody;
  readonly original: Original | null;
  readonly deadlineAt: number | undefined;
}

/** Makes the row ours inside a transaction. @returns null when the handler is to run, else the stored verdict. */
export async function enter<Tx>(
  barrier: Barrier<Tx>,
  entry: BarrierEntry,
): Promise<Verdict | null> {
  if (await barrier.insert(entry, 'running')) return null;
  const row = await mustRead(barrier, entry.commandId);
  if (row.state !== 'running') return verdictOf(row);
  // Left by an effect handler that was since made transactional: taken over once its lease has ended.
  if (row.leaseRemainingMs <= 0 && (await barrier.takeOver(entry.commandId))) return null;
  throw new CommandFailure('STILL_RUNNING', `Command ${entry.commandId} is in flight elsewhere.`);
}

export function verdictOf(row: Exclude<BarrierRow, { state: 'running' }>): Verdict {
  if (row.state === 'done') return { state: 'done', output: row.output };
  if (row.state === 'rejected') return { state: 'rejected', failure: row.failure };
  return { state: row.state };
}

export async function mustRead<Tx>(barrier: Barrier<Tx>, commandId: string): Promise<BarrierRow> {
  const row = await barrier.read(commandId);
  if (row !== null) return row;
  throw new Error(`Barrier row ${commandId} went away while it was read; it is tried again.`);
}

export function fieldsOf<Tx>(deps: ExecuteDeps<Tx>, command: CommandBody): object {
  return {
    service: deps.service,
    commandId: command.commandId,
    sagaId: command.sagaId,
    attempt: command.attempt,
  };
}

/** The reply that tells a verdict. */
export function replyTo(command: CommandBody, verdict: Verdict): ReplyBody {
  const head = headOf(command);
  switch (verdict.state) {
    case 'done':
      return { ...head, outcome: 'succeeded', output: verdict.output };
    case 'rejected':
      return { ...head, outcome: 'rejected', failure: verdict.failure };
    default:
      return { ...head, outcome: verdict.state };
  }
}

export function failed(command: CommandBody, failure: Failure, retryable: boolean): ReplyBody {
  return { ...headOf(command), outcome: 'failed', failure, retryable };
}

export function headOf(command: CommandBody): {
  commandId: string;
  sagaId: string;
  namespace: string;
  attempt: number;
} {
  return {
    commandId: command.commandId,
    sagaId: command.sagaId,
    namespace: command.namespace,
    attempt: command.attempt,
  };
}
