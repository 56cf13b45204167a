/**
 * Reading ports: what the API and the CLI look at. Nothing here can change a saga.
 * Adapters: `postgres/inspect.ts` and friends; memory for tests.
 */
import type { LoggedEvent, SagaStatus } from './core/events.ts';
import type { DeadLetter, SagaSummary } from './ports.ts';

export interface SagaQuery {
  namespace: string;
  definition?: string;
  definitionVersion?: number;
  status?: readonly SagaStatus[];
  businessKey?: string;
  /** Every pair must match. */
  attributes?: { [name: string]: string | number | boolean };
  /** ms since the epoch, inclusive / exclusive. */
  startedFrom?: number;
  startedBefore?: number;
  /** Newest first; ids are in order of time. Only ids below this one. */
  beforeSagaId?: string;
  limit: number;
}

/** A part of the log that did not answer: one of the databases that it is spread over. */
export interface MissingPart {
  /** 1-based, in the order of SAGAX_LOG_DATABASES. */
  part: number;
  parts: number;
  /** Shards that live there. */
  shards: readonly number[];
  /** Whether it is where this saga lives, if there is one. */
  holds(sagaId: string): boolean;
  error: Error;
}

export interface PartOptions {
  /**
   * Told of each part that did not answer in time; the result lacks its rows. Without it a missing part rejects
   * the call, and with it only the lack of all parts does.
   */
  onMissing?: (missing: MissingPart) => void;
}

/** Most of a history that is read at once: an event may have 900 kB, and a thousand of them would be a gigabyte. */
export const HISTORY_BYTES = 8_000_000;

export interface SagaReader {
  get(namespace: string, sagaId: string): Promise<SagaSummary | null>;
  /** Summaries of those that exist; one query whatever the number (long polls share it). */
  getMany(
    keys: readonly { namespace: string; sagaId: string }[],
    options?: PartOptions,
  ): Promise<SagaSummary[]>;
  /** Newest first, at most `limit`. */
  list(query: SagaQuery, options?: PartOptions): Promise<SagaSummary[]>;
  /**
   * Events with a stream version above `afterVersion`, in order, at most `limit`, and none after the one with which
   * their JSON comes to `maxBytes` (about; HISTORY_BYTES when not given). So fewer than `limit` need not be all: only
   * none means that there are no more.
   */
  history(
    sagaId: string,
    afterVersion: number,
    limit: number,
    maxBytes?: number,
  ): Promise<LoggedEvent[]>;
  /**
   * Whether the log still has the week that the id is of. Then a saga of it that is not found was never begun; once the
   * week is dropped, it may have run and ended.
   */
  isKept(sagaId: string): Promise<boolean>;
  shards(options?: PartOptions): Promise<
    {
      shard: number;
      epoch: number;
      owner: string | null;
      expiresAt: number | null;
      nextOffset: string;
      nextSeq: number;
      publishedSeq: number;
    }[]
  >;
  /** @throws SagaxError DATABASE_UNAVAILABLE */
  ping(options?: PartOptions): Promise<void>;
}

/** Keys that name a start: the first to come wins, a repeat gets the same saga. */
export interface StartKeys {
  /**
   * Reserves the keys for `sagaId`, or finds who has them. On return the reservation is durable; the start may
   * not be on the bus yet: whoever repeats the call publishes it again, and the shard drops the second.
   * @param fingerprint hash of the request's body, to tell a repeat from another request under the same key
   * @returns the saga that has the keys; it is `sagaId` when the reservation is new
   * @throws SagaxError KEY_REUSED when a key belongs to a request with another fingerprint
   *   (for a business key: a different saga has it; the message names it)
   */
  reserve(reservation: {
    namespace: string;
    definition: string;
    sagaId: string;
    fingerprint: string;
    idempotencyKey?: string;
    businessKey?: string;
  }): Promise<{ sagaId: string; fresh: boolean }>;
}

export interface StoredDeadLetter extends DeadLetter {
  id: string;
  redrivenAt: number | null;
}

export interface DeadLetters {
  /** Newest first: ids are in order of the time at which letters were parked. */
  list(
    query: { beforeId?: string; limit: number; includeRedriven?: boolean },
    options?: PartOptions,
  ): Promise<StoredDeadLetter[]>;
  get(id: string): Promise<StoredDeadLetter | null>;
  /** @returns false when it had been redriven before. */
  markRedriven(id: string): Promise<boolean>;
}
