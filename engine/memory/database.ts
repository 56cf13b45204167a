/**
 * The lasting state of the memory adapters: what Postgres holds in production. It outlives the hosts.
 *
 * Guards that nothing is shared by reference: events and snapshots are kept as text, as jsonb would,
 * so a caller that changes what it stored or read changes nothing here. Every change is one call, atomic.
 */
import { SagaxError } from '../core/errors.ts';
import type { LoggedEvent } from '../core/events.ts';
import type { SagaSnapshot, SagaSummary, ShardBatch } from '../ports.ts';
import type { StoredDeadLetter } from '../ports-read.ts';

export interface ShardRow {
  shard: number;
  epoch: number;
  owner: string | null;
  expiresAt: number | null;
  nextOffset: bigint;
  nextSeq: number;
  publishedSeq: number;
}

export interface NodeIdRow {
  nodeId: number;
  epoch: number;
  owner: string | null;
  expiresAt: number;
  lastMs: number;
}

export interface StoredEvent {
  sagaId: string;
  shard: number;
  streamVersion: number;
  shardSeq: number;
  epoch: number;
  type: LoggedEvent['event']['type'];
  /** The whole LoggedEvent as JSON. */
  text: string;
}

/** Sees each change at the moment when it is made, by the database's clock: what a checker goes by. */
export interface DatabaseObserver {
  appended?: (batch: ShardBatch, at: number) => void;
  acquired?: (lease: { shard: number; owner: string; epoch: number }, at: number) => void;
}

export interface MemoryDatabaseOptions {
  /** Number of shards, fixed for good. */
  shards: number;
  /** The database's own clock, ms since the epoch. */
  now: () => number;
  /** How many Snowflake node ids there are. Default 1024, as in production; fewer makes reuse frequent. */
  nodeIds?: number;
  observer?: DatabaseObserver;
}

export class MemoryDatabase {
  readonly now: () => number;
  readonly observer: DatabaseObserver;
  readonly shards: ShardRow[];
  readonly nodeIds: NodeIdRow[];
  /** By saga, in order of stream version. */
  readonly streams = new Map<string, StoredEvent[]>();
  /** By shard, in order of shardSeq. */
  readonly byShard: StoredEvent[][];
  readonly snapshots = new Map<string, string>();
  readonly summaries = new Map<string, SagaSummary>();
  /** By shard: saga id → when it wants to be woken. */
  readonly wakeups: Map<string, number>[];
  readonly deadLetters: StoredDeadLetter[] = [];
  /** `namespace definition kind key` → who has it. */
  readonly startKeys = new Map<string, { sagaId: string; fingerprint: string }>();

  constructor(options: MemoryDatabaseOptions) {
    this.now = options.now;
    this.observer = options.observer ?? {};
    this.shards = Array.from({ length: options.shards }, (_, shard) => ({
      shard,
      epoch: 0,
      owner: null,
      expiresAt: null,
      nextOffset: 0n,
      nextSeq: 1,
      publishedSeq: 0,
    }));
    this.nodeIds = Array.from({ length: options.nodeIds ?? 1024 }, (_, nodeId) => ({
      nodeId,
      epoch: 0,
      owner: null,
      expiresAt: 0,
      lastMs: 0,
    }));
    this.byShard = this.shards.map(() => []);
    this.wakeups = this.shards.map(() => new Map<string, number>());
  }

  /** @throws SagaxError TOPOLOGY_MISMATCH for a shard that does not exist */
  shard(shard: number): ShardRow {
    const row = this.shards[shard];
    if (row === undefined) {
      throw new SagaxError(
        'TOPOLOGY_MISMATCH',
        `Shard ${shard} does not exist; this database was set up with ${this.shards.length} shards.`,
      );
    }
    return row;
  }

  /** All events of a stream, parsed afresh. */
  stream(sagaId: string): LoggedEvent[] {
    return (this.streams.get(sagaId) ?? []).map(parseEvent);
  }

  snapshot(sagaId: string): SagaSnapshot | null {
    const text = this.snapshots.get(sagaId);
    return text === undefined ? null : (JSON.parse(text) as SagaSnapshot);
  }
}

export function parseEvent(stored: StoredEvent): LoggedEvent {
  return JSON.parse(stored.text) as LoggedEvent;
}
