/**
 * A participant's database in memory: barrier rows, dead letters and a key-value store, serializable.
 *
 * Guards what Postgres guards, in the same way: an insert waits for another transaction that is inserting
 * the same row, nothing uncommitted is seen, a rollback leaves nothing. It outlives the stores (the
 * connections) on it, so that a worker can die and another can find what it left. No timers, no chance.
 */
import type { Json } from '../../engine/core/json.ts';
import type { DeadLetter } from '../../engine/ports.ts';
import type { Answer, BarrierEntry } from '../ports.ts';

export type StoredOutcome =
  Answer | { state: 'pending' } | { state: 'superseded' } | { state: 'running' };

export interface StoredRow {
  entry: BarrierEntry;
  outcome: StoredOutcome;
  fencingToken: number | null;
  /** ms since the epoch by the database's clock; null: no lease. */
  leaseExpiresAt: number | null;
}

/** A lock with waiters in order of arrival; whoever waits is let in when the holder gives it back. */
class Lock {
  #held = false;
  readonly #waiters: (() => void)[] = [];

  async take(): Promise<void> {
    if (!this.#held) {
      this.#held = true;
      return;
    }
    await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** @returns whether nobody has it any more. */
  give(): boolean {
    const next = this.#waiters.shift();
    if (next === undefined) this.#held = false;
    else next();
    return next === undefined;
  }
}

export class ParticipantDatabase {
  /** The database's clock: ms since the epoch. */
  readonly now: () => number;
  /** By command id: what is committed. Tests and the simulator's checks may look at it. */
  readonly rows = new Map<string, StoredRow>();
  readonly values = new Map<string, Json>();
  readonly deadLetters: DeadLetter[] = [];
  readonly #rowLocks = new Map<string, Lock>();
  readonly #valuesLock = new Lock();
  #lastToken = 0;

  constructor(now: () => number) {
    this.now = now;
  }

  nextToken(): number {
    this.#lastToken += 1;
    return this.#lastToken;
  }

  async lockRow(commandId: string): Promise<() => void> {
    const lock = this.#rowLocks.get(commandId) ?? new Lock();
    this.#rowLocks.set(commandId, lock);
    await lock.take();
    return once(() => {
      if (lock.give()) this.#rowLocks.delete(commandId);
    });
  }

  /**
   * One lock for all values makes transactions serializable. It is taken at the first use, always behind
   * the barrier rows' locks, and whoever has it waits for no other lock: there are no deadlocks.
   */
  async lockValues(): Promise<() => void> {
    await this.#valuesLock.take();
    return once(() => void this.#valuesLock.give());
  }
}

function once(run: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    run();
  };
}
