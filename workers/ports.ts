/**
 * The port between the participant runtime and the participant's own database: the **barrier**.
 *
 * Guards I8: one row per command id (never per attempt) says what became of that command, and it
 * changes in the same transaction as the work. Adapters: `postgres/` (production) and `memory/` (test
 * kit and simulator). Each method says what holds on return, and what a crash before it means.
 */
import type { Failure } from '../engine/core/events.ts';
import type { Json } from '../engine/core/json.ts';
import type { Bus, BusMessage, DeadLetter } from '../engine/ports.ts';

/** What a barrier row is made from: the command as it came, without what only one attempt knows. */
export interface BarrierEntry {
  commandId: string;
  sagaId: string;
  namespace: string;
  /** The contract's name. */
  command: string;
  op: 'do' | 'compensate';
  /** For a compensation: command id of the step that it takes back. */
  of: string | null;
  /** As it came, before the contract's schema: what a compensation sees as `original.input`. */
  input: Json;
  attempt: number;
}

/** A final answer. It is stored, and every repeat of the command gets this very one. */
export type Answer = { state: 'done'; output: Json } | { state: 'rejected'; failure: Failure };

/**
 * What a barrier row says. `running` is seen only of effect handlers (a transactional one's row is not
 * visible before its commit): in flight while the lease lasts, of unknown outcome after it.
 * `superseded`: a compensation or settlement came first; the step will never run.
 */
export type BarrierRow = { commandId: string; input: Json } & (
  | Answer
  | { state: 'pending' }
  | { state: 'superseded' }
  | { state: 'running'; leaseRemainingMs: number }
);

/**
 * What the step that a compensation takes back was asked and answered, as it is stored here. The output is null
 * for a step that was answered `pending` and completed by somebody else.
 */
export interface Original {
  commandId: string;
  input: unknown;
  output: unknown;
}

export type Claim = { claimed: true; fencingToken: string } | { claimed: false; row: BarrierRow };

/** The barrier inside one open transaction. */
export interface Barrier<Tx> {
  /**
   * What the handler works through. Dead once its result is told (`rollbackToSavepoint`, `answer`) or `work` has ended:
   * branches of it that still go on reach nothing.
   */
  readonly tx: Tx;
  /**
   * Change instead of check: inserts the row unless it is there, and waits for another transaction that
   * is inserting it. @returns whether it is our insert; false: the row is there, committed by another.
   */
  insert(entry: BarrierEntry, state: 'running' | 'superseded'): Promise<boolean>;
  read(commandId: string): Promise<BarrierRow | null>;
  /** Takes a `running` row whose lease has ended; its old claim's `record` fails from the commit on. */
  takeOver(commandId: string): Promise<boolean>;
  /** Stores the answer. @throws when the row isn't there: the handler ended the transaction by itself. */
  answer(commandId: string, answer: Answer): Promise<void>;
  /** Marks the place that `rollbackToSavepoint` goes back to; a transaction has at most one. */
  savepoint(): Promise<void>;
  rollbackToSavepoint(): Promise<void>;
}

/** A row to insert; see `Barrier.insert`. */
export interface Insert {
  readonly entry: BarrierEntry;
  readonly state: 'running' | 'superseded';
}

/**
 * How a part of a shared transaction is begun. `undoable`: it can be taken back by itself, which costs a savepoint.
 * `kept`: it can't. `single`: it can't, and is for one statement at most, so that others may be begun before it has ended.
 */
export type PartKind = 'undoable' | 'kept' | 'single';

/** One handler's share of a transaction that several of them use. */
export interface Part<Tx> {
  /** What the handler works through; dead once the part has ended. The second statement of a `single` one is refused. */
  readonly tx: Tx;
  /** Statements so far; one that can't be seen to end, or that leaves something behind for others, counts as many. */
  readonly statements: number;
  /** Whether one of them has failed by itself, or was refused since another part's had; null: not that it is known. */
  readonly failed: 'itself' | 'before' | null;
  /**
   * Ends it, and with `undo` takes back all that was done through `tx`. `sound`: no statement of it had failed;
   * one that is not is taken back in any case. `last`: it has left settings of the transaction behind that a
   * handler after it would meet, so that none may come after it.
   * @throws when the transaction is no longer usable: also when something is to be taken back that has no way back,
   * or when a `single` one would have had more than its statement
   */
  end(what: 'keep' | 'undo'): Promise<{ sound: boolean; last: boolean }>;
}

/** The barrier of many commands of different sagas inside one open transaction. */
export interface Batch<Tx> {
  /** Resolves when the database has begun the transaction: from then on a wait is for a row of another's, not for it. */
  readonly begun: Promise<unknown>;
  /**
   * As `Barrier.insert` for each, in order of command ids whatever their order here, so that transactions which
   * meet wait for each other and never in a circle. @returns the ids of the rows that are our insert
   */
  insert(rows: readonly Insert[]): Promise<ReadonlySet<string>>;
  read(commandIds: readonly string[]): Promise<ReadonlyMap<string, BarrierRow>>;
  /** Begins the share of the next handler; the one before must have ended, but where both are `single`. */
  part(kind: PartKind): Part<Tx>;
  /** Runs `begin`; what the handlers that it begins say to the database at once goes there together. */
  together<T>(begin: () => T): T;
  /**
   * The last step: takes away the rows of `withdrawn`, which this transaction has inserted, as if they had never
   * been there, and stores the answers. @throws when one of those rows isn't there
   * @param replies what the answers say on the bus; `published`: they went out with the commit
   */
  finish(
    answers: ReadonlyMap<string, Answer>,
    withdrawn: readonly string[],
    replies: readonly BusMessage[],
  ): Promise<{ published: boolean }>;
}

export interface ParticipantStore<Tx> {
  /** Creates or migrates what the store needs; safe when many workers start at once. */
  start(): Promise<void>;
  /**
   * Where the bus lives in the store's database, lets replies go out with the transaction that stores their
   * answers. Called once, after `start`.
   */
  shareCommits?(bus: Bus): Promise<void>;
  /**
   * Runs `work` in one transaction: committed on return, rolled back when `work` throws. If the process
   * dies before it returns, all of it or none of it is there; the redelivered command finds out which.
   * After a throw of `HandlerAbandoned` no use of `tx` can reach the database any more.
   */
  transaction<T>(work: (barrier: Barrier<Tx>) => Promise<T>): Promise<T>;
  /** As `transaction`, for many commands at once. A store without it gets them one by one. */
  batch?<T>(work: (batch: Batch<Tx>) => Promise<T>): Promise<T>;
  /**
   * In one statement: inserts the row as `running`, or takes it over when it is `running` and its lease has
   * ended. A claim's fencing token is greater than that of any earlier claim of the row.
   */
  claim(entry: BarrierEntry, leaseMs: number): Promise<Claim>;
  /** Extends our claim to `leaseMs` from now. @returns false when it is no longer ours. */
  extend(commandId: string, fencingToken: string, leaseMs: number): Promise<boolean>;
  /** Stores the outcome of our claim; repeating it is harmless. @returns false when it is no longer ours. */
  record(
    commandId: string,
    fencingToken: string,
    outcome: Answer | { state: 'pending' },
  ): Promise<boolean>;
  /**
   * Ends our claim's lease without an outcome, so that the next attempt need not wait for it.
   * @returns false when the claim is no longer ours.
   */
  endLease(commandId: string, fencingToken: string): Promise<boolean>;
  /** Keeps a message that can't be a command; once per topic, partition and offset. */
  park(letter: DeadLetter): Promise<void>;
  /** Whether the same transaction may work at once: serialization failure, deadlock, lost connection. */
  isTransient(error: unknown): boolean;
}

/** A handler's work in a shared transaction is to be taken back, and was begun without a savepoint. */
export class NoWayBack extends Error {
  constructor() {
    super(
      'The work of one handler must be taken back, and with it the transaction that it shares.',
    );
    this.name = 'NoWayBack';
  }
}

/** The handler did not end although its signal was aborted; its transaction is to be torn down. */
export class HandlerAbandoned extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'HandlerAbandoned';
  }
}
