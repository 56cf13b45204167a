/**
 * The participant store in memory, for the test kit and the simulator: deterministic, with fault hooks.
 *
 * A store is one worker's connection to a `ParticipantDatabase`. `kill()` is that worker's death: its open
 * transactions are rolled back, its locks are free, and whatever it still tries throws.
 */
import type { DeadLetter } from '../../engine/ports.ts';
import type { Answer, Barrier, BarrierEntry, Batch, Claim, ParticipantStore } from '../ports.ts';
import { MemoryBatch } from './batch.ts';
import type { ParticipantDatabase, StoredRow } from './database.ts';
import {
  isFree,
  MemoryTransaction,
  rowOf,
  type Gate,
  type MemoryTx,
  type Session,
} from './transaction.ts';

export interface MemoryStoreOptions {
  /** Shared by the workers of one service, as their database. */
  database: ParticipantDatabase;
  /** Awaited before and after each operation, e.g. `commit:after`: delay there, or throw to break it. */
  gate?: Gate;
}

/** The `code` of an error that a gate throws to have the transaction tried again, as Postgres names it. */
const TRANSIENT_CODES: ReadonlySet<unknown> = new Set(['40001', '40P01']);

export class MemoryStore implements ParticipantStore<MemoryTx> {
  readonly database: ParticipantDatabase;
  readonly #gate: Gate;
  readonly #session: Session;
  readonly #open = new Set<MemoryTransaction>();
  #killed = false;

  constructor(options: MemoryStoreOptions) {
    this.database = options.database;
    this.#gate = options.gate ?? (() => Promise.resolve());
    this.#session = {
      database: this.database,
      pass: (operation, run) => this.#pass(operation, run),
    };
  }

  /** The worker's death: open transactions are rolled back, later operations throw. */
  kill(): void {
    this.#killed = true;
    for (const transaction of this.#open) transaction.close();
    this.#open.clear();
  }

  start(): Promise<void> {
    return this.#pass('start', () => undefined);
  }

  transaction<T>(work: (barrier: Barrier<MemoryTx>) => Promise<T>): Promise<T> {
    return this.#inTransaction(work);
  }

  batch<T>(work: (batch: Batch<MemoryTx>) => Promise<T>): Promise<T> {
    return this.#inTransaction((transaction) => work(new MemoryBatch(transaction)));
  }

  async #inTransaction<T>(work: (transaction: MemoryTransaction) => Promise<T>): Promise<T> {
    const transaction = await this.#pass('begin', () => new MemoryTransaction(this.#session));
    this.#open.add(transaction);
    try {
      const result = await work(transaction);
      transaction.endUse();
      await this.#pass('commit', () => transaction.commit());
      return result;
    } finally {
      this.#open.delete(transaction);
      transaction.close();
    }
  }

  claim(entry: BarrierEntry, leaseMs: number): Promise<Claim> {
    return this.#onRow('claim', entry.commandId, (row): Claim => {
      const now = this.database.now();
      if (row !== undefined && !isFree(row, now)) return { claimed: false, row: rowOf(row, now) };
      const fencingToken = this.database.nextToken();
      this.database.rows.set(entry.commandId, {
        entry: row?.entry ?? structuredClone(entry),
        outcome: { state: 'running' },
        fencingToken,
        leaseExpiresAt: now + leaseMs,
      });
      return { claimed: true, fencingToken: String(fencingToken) };
    });
  }

  extend(commandId: string, fencingToken: string, leaseMs: number): Promise<boolean> {
    return this.#ifOurs('extend', commandId, fencingToken, (row) => {
      row.leaseExpiresAt = this.database.now() + leaseMs;
    });
  }

  record(
    commandId: string,
    fencingToken: string,
    outcome: Answer | { state: 'pending' },
  ): Promise<boolean> {
    return this.#ifOurs(
      'record',
      commandId,
      fencingToken,
      (row) => {
        row.outcome = structuredClone(outcome);
        row.leaseExpiresAt = null;
      },
      outcome.state,
    );
  }

  endLease(commandId: string, fencingToken: string): Promise<boolean> {
    return this.#ifOurs('endLease', commandId, fencingToken, (row) => {
      row.leaseExpiresAt = this.database.now();
    });
  }

  park(letter: DeadLetter): Promise<void> {
    return this.#pass('park', () => {
      const known = this.database.deadLetters.some(
        (one) =>
          one.topic === letter.topic &&
          one.partition === letter.partition &&
          one.offset === letter.offset,
      );
      if (!known) this.database.deadLetters.push(structuredClone(letter));
    });
  }

  isTransient(error: unknown): boolean {
    return !this.#killed && TRANSIENT_CODES.has((error as { code?: unknown } | null)?.code);
  }

  #ifOurs(
    operation: string,
    commandId: string,
    fencingToken: string,
    change: (row: StoredRow) => void,
    repeatable?: string,
  ): Promise<boolean> {
    return this.#onRow(operation, commandId, (row) => {
      if (row === undefined || String(row.fencingToken) !== fencingToken) return false;
      if (row.outcome.state !== 'running' && row.outcome.state !== repeatable) return false;
      const changed = { ...row };
      change(changed);
      this.database.rows.set(commandId, changed);
      return true;
    });
  }

  /** One statement on one row: waits for a transaction that has it, then reads and writes in one step. */
  #onRow<T>(
    operation: string,
    commandId: string,
    run: (row: StoredRow | undefined) => T,
  ): Promise<T> {
    return this.#pass(operation, async () => {
      const unlock = await this.database.lockRow(commandId);
      try {
        this.#assertAlive();
        return run(this.database.rows.get(commandId));
      } finally {
        unlock();
      }
    });
  }

  async #pass<T>(operation: string, run: () => T | Promise<T>): Promise<T> {
    this.#assertAlive();
    await this.#gate(`${operation}:before`);
    this.#assertAlive();
    const result = await run();
    this.#assertAlive();
    await this.#gate(`${operation}:after`);
    return result;
  }

  #assertAlive(): void {
    if (this.#killed) throw new Error('The store was killed: its worker is dead.');
  }
}

export function memoryStore(options: MemoryStoreOptions): MemoryStore {
  return new MemoryStore(options);
}
