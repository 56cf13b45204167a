/**
 * The ports between the runtime and what lasts: event log, shard leases, node ids, bus, clock.
 *
 * Adapters: `postgres/`, `kafka/` (bus only), `memory/` (all of them; product code: the test kit and
 * the simulator run on it). Each method says what holds on return, and what a crash before it means.
 * Adapters see this file, never each other.
 */
import type { LoggedEvent, SagaEvent, SagaStatus } from './core/events.ts';
import type { Json } from './core/json.ts';
import type { DeadLetter } from './core/letters.ts';

// ---------------------------------------------------------------- clock

/** Time as a port: nothing below reads the wall clock or sleeps by itself. */
export interface Clock {
  /** ms since the epoch by the database's clock (offset measured, never early by more than its error). */
  now(): number;
  /** ms that only go forward, for local deadlines (leases); no relation to `now`. */
  monotonic(): number;
  /** Resolves after `ms` (any size, not limited to 2^31), or at once with `false` when aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<boolean>;
}

// ---------------------------------------------------------------- event log

/** What one shard has to show for itself: read on take-over, moved by every append. */
export interface ShardPosition {
  shard: number;
  epoch: number;
  /** Offset of the next inbox message to apply. Everything below is in the log. */
  nextOffset: bigint;
  /** `shardSeq` of the next event. */
  nextSeq: number;
  /** Every command and domain event up to this `shardSeq` is on the bus. */
  publishedSeq: number;
}

/** A saga's row for list and search. */
export interface SagaSummary {
  sagaId: string;
  namespace: string;
  definition: string;
  definitionVersion: number;
  status: SagaStatus;
  /** The machine's state as a dotted path, regions joined by ",": `paying` or `booking.flight.done,booking.hotel.asked`. */
  state: string;
  businessKey: string | null;
  attributes: { [name: string]: string | number | boolean };
  streamVersion: number;
  startedAt: number;
  updatedAt: number;
  /** Set when ended. */
  endedAt: number | null;
  /** Whether the pivot's point of no return has been passed: cancel is refused. */
  pivotPassed: boolean;
  /** Why it is stuck, was compensated, or last failed. */
  failureCode: string | null;
  failureMessage: string | null;
  /** The machine's output, once ended. */
  output: Json | null;
}

/** A cached state; never the truth. Thrown away and reported when its hashes don't fit. */
export interface SagaSnapshot {
  sagaId: string;
  streamVersion: number;
  definitionHash: string;
  /** SHA-256 over the state's canonical JSON and the version of its shape, hex. */
  stateHash: string;
  state: Json;
}

export type { DeadLetter };

/** All that one batch changes; written in one statement or one transaction. */
export interface ShardBatch {
  shard: number;
  /** The writer's epoch: the fence (I2). */
  epoch: number;
  events: readonly LoggedEvent[];
  /** Set when inbox messages were applied: the offset behind the last one. */
  nextOffset?: bigint;
  /** Set when the relay got further. */
  publishedSeq?: number;
  /** Earliest due timer per saga: ms, or null for none. At most one entry a saga. */
  wakeups: readonly { sagaId: string; dueAt: number | null }[];
  summaries: readonly SagaSummary[];
  snapshots: readonly SagaSnapshot[];
  deadLetters: readonly DeadLetter[];
  /**
   * What the events have to say on the bus, in order; set only when all before them is on the bus. A log that has
   * the bus beside it puts them there with the same commit; others don't ask for them.
   */
  messages?: () => readonly BusMessage[];
}

/** What an append did beyond its batch. */
export interface Appended {
  /** Whether the batch's messages are on the bus, and `publishedSeq` behind its events: nothing is left to publish. */
  published: boolean;
}

export interface EventLog {
  /**
   * Appends a batch if `epoch` is still the shard's. On return all of it is durable and visible.
   * If the process dies before it returns, all of it or none of it is there.
   * @throws FencedError nothing was written; another owner has the shard.
   * @throws CommitUnknownError the answer was lost: read the position again before going on.
   * @throws SagaxError DATABASE_UNAVAILABLE nothing was written.
   */
  append(batch: ShardBatch): Promise<Appended>;
  /**
   * For each saga id that has a stream: its newest snapshot, if any, and the events behind it
   * (all events when there is no snapshot, or when `ignoreSnapshots`), by stream version.
   */
  load(
    sagaIds: readonly string[],
    options?: { ignoreSnapshots?: boolean },
  ): Promise<Map<string, { snapshot: SagaSnapshot | null; events: LoggedEvent[] }>>;
  /** Events of the shard with `shardSeq > afterSeq` that go to the bus (OUTBOX_EVENTS), in order, at most `limit`. */
  readOutbox(shard: number, afterSeq: number, limit: number): Promise<LoggedEvent[]>;
  /** Sagas of the shard that have a wake-up due at or before `until` (ms), earliest first. */
  dueWakeups(
    shard: number,
    until: number,
    limit: number,
  ): Promise<{ sagaId: string; dueAt: number }[]>;
}

/** Event types that the relay publishes: commands and domain events. */
export const OUTBOX_EVENTS: ReadonlySet<SagaEvent['type']> = new Set([
  'StepRequested',
  'CommandRetried',
  'SettlementRequested',
  'CompensationRequested',
  'DomainEventEmitted',
]);

// ---------------------------------------------------------------- ownership

export interface ShardLease extends ShardPosition {
  owner: string;
}

/** Leases on shards. Only the database's clock counts; a new owner bumps the epoch, and that fences the old one. */
export interface ShardLeases {
  /** Number of shards, fixed when the database was first set up. */
  readonly shardCount: number;
  /**
   * Takes the shard. On return the epoch has been bumped: no older owner can append any more.
   * @param steal take it although another's lease is live (the bus has said that we own the partition).
   * @returns null when another's lease is live and `steal` is not set.
   */
  acquire(
    shard: number,
    owner: string,
    ttlMs: number,
    options?: { steal?: boolean },
  ): Promise<ShardLease | null>;
  /** Extends all leases that are still held. @returns the shards that are no longer ours at that epoch. */
  renew(
    owner: string,
    held: readonly { shard: number; epoch: number }[],
    ttlMs: number,
  ): Promise<number[]>;
  /** Gives a shard back at once. Harmless when it is no longer ours. */
  release(shard: number, owner: string, epoch: number): Promise<void>;
}

/** Leases on the 10-bit node ids of Snowflake ids; an id is never reissued before its high-water time. */
export interface NodeIdLeases {
  /** @returns a node id nobody else holds; ids must be made with times above `startAboveMs`. @throws NODE_IDS_EXHAUSTED */
  acquire(
    owner: string,
    ttlMs: number,
  ): Promise<{ nodeId: number; epoch: number; startAboveMs: number }>;
  /** @returns false when the lease is lost: stop making ids at once. */
  renew(nodeId: number, epoch: number, ttlMs: number): Promise<boolean>;
  release(nodeId: number, epoch: number, lastMs: number): Promise<void>;
}

// ---------------------------------------------------------------- bus

export interface BusMessage {
  topic: string;
  partition: number;
  key: string;
  headers: { [name: string]: string };
  value: string;
}

export interface ReceivedMessage {
  topic: string;
  partition: number;
  offset: bigint;
  key: string | null;
  headers: { [name: string]: string };
  /** UTF-8 text; null for an empty (tombstone) message. Undecodable bytes are U+FFFD and fail as JSON. */
  value: string | null;
}

export interface TopicSpec {
  topic: string;
  partitions: number;
}

export interface BusBatch {
  topic: string;
  partition: number;
  /** In offset order, no offset twice; at least one. */
  messages: readonly ReceivedMessage[];
  /**
   * Says that all offsets below `nextOffset` are done with; may come long after `onBatch` returned.
   * A hint for the next start position: it is kept lazily, and lost with the process.
   */
  commit(nextOffset: bigint): void;
}

export interface SubscribeOptions {
  /** Consumer group: its members share the partitions, each partition has one member at a time. */
  group: string;
  topics: readonly string[];
  /**
   * A partition came to us. Returns the offset to start from, or null for the group's committed one
   * (from the beginning when there is none). Batches below the returned offset may still come: the
   * consumer filters. Awaited before the partition's first batch is delivered. If it rejects, it is called
   * again after a pause for as long as the partition is ours. It must not try for long by itself: until it has
   * ended `onRevoked` does not come, and nobody else may get the partition.
   */
  onAssigned?: (topic: string, partition: number) => Promise<bigint | null>;
  /**
   * A partition went away (or the subscription closes). Work on it may still be under way: fence it. Called after
   * an `onAssigned` of the partition that is under way, and also when that one rejected.
   */
  onRevoked?: (topic: string, partition: number) => Promise<void>;
  /**
   * One partition's messages, in order; the next batch of that partition comes when this resolves, so
   * not resolving is the back-pressure. Different partitions run side by side. If it rejects, the same
   * messages come again after a pause (at least once). `resumeAt` asks to be read from another offset.
   */
  onBatch: (batch: BusBatch) => Promise<void | { resumeAt: bigint }>;
  /** Most messages in a batch. Default 500. */
  maxBatch?: number;
}

export interface Subscription {
  /** Partitions that are ours now. */
  assigned(): { topic: string; partition: number }[];
  /** Resolves when the first assignment (maybe an empty one) has been made and its `onAssigned` calls are done. */
  ready(): Promise<void>;
  /** Stops reading, waits for running `onBatch` calls, revokes all, commits what was said, leaves the group. */
  close(): Promise<void>;
}

/** Where a database is, as its client is set up. */
export interface DatabasePlace {
  host: string;
  port: number;
  database: string;
}

/** A bus that lives in a database, for whoever commits there: messages go out with the commit of other work, or not at all. */
export interface CommitShare {
  /** SQL that gives one boolean, `allowed`: whether the connection's user may publish. It fails where no bus is. */
  readonly allowed: string;
  /** @returns null when they must be published the usual way */
  statement(messages: readonly BusMessage[]): Promise<CommitShareStatement | null>;
}

export interface CommitShareStatement {
  /** The last one of a READ COMMITTED transaction: it holds the partitions until the commit. */
  readonly query: { name: string; text: string; values: unknown[] };
  /** Called with its rows when that transaction has committed. */
  committed(rows: readonly unknown[]): void;
}

export interface Bus {
  readonly kind: 'kafka' | 'postgres' | 'memory';
  /** Creates what is missing. @throws SagaxError TOPOLOGY_MISMATCH when a topic has another partition count. */
  ensureTopics(specs: readonly TopicSpec[]): Promise<void>;
  /**
   * On return every message is durable (Kafka acks=all); order is kept per topic and partition.
   * If it rejects, any of them may be there: publishing again makes duplicates, which receivers drop.
   * Batches over the broker's request limit are split.
   * @throws SagaxError BUS_UNAVAILABLE within about 10 s when the broker does not answer; TOPOLOGY_MISMATCH when there
   * is no such topic or partition, which fails this call only.
   */
  publish(messages: readonly BusMessage[]): Promise<void>;
  subscribe(options: SubscribeOptions): Subscription;
  /** For a bus that lives in a database. @returns null when `place` is another database */
  within?(place: DatabasePlace): CommitShare | null;
  /** Offset behind the last message of each partition of a topic (for lag). */
  endOffsets(topic: string): Promise<Map<number, bigint>>;
  /** @throws SagaxError BUS_UNAVAILABLE */
  ping(): Promise<void>;
  close(): Promise<void>;
}
