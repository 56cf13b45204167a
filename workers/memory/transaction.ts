/**
 * One transaction on the memory database: changes are kept apart until the commit, which is one step.
 *
 * Guards that an ended or abandoned transaction can't be used any more: whatever a handler that was left
 * behind still does through `tx` throws, and reaches nothing.
 */
import { toJson, type Json } from '../../engine/core/json.ts';
import type { Answer, Barrier, BarrierEntry, BarrierRow } from '../ports.ts';
import type { ParticipantDatabase, StoredRow } from './database.ts';

/** What handlers work through on `memoryStore`: a key-value store of JSON, serializable, with rollback. */
export interface MemoryTx {
  /** @returns undefined when there is no such key. */
  get(key: string): Promise<Json | undefined>;
  set(key: string, value: unknown): Promise<void>;
  delete(key: string): Promise<void>;
  /** Entries whose key starts with `prefix`, in order of their keys. */
  list(prefix: string): Promise<[string, Json][]>;
}

/** Called before and after each operation of a store, as `<operation>:before` and `<operation>:after`. */
export type Gate = (point: string) => Promise<void>;

export interface Session {
  readonly database: ParticipantDatabase;
  /** Runs an operation between its two gate points; throws when the session was killed. */
  pass<T>(operation: string, run: () => T | Promise<T>): Promise<T>;
}

type Changes = Map<string, Json | undefined>;

export class MemoryTransaction implements Barrier<MemoryTx> {
  readonly tx: MemoryTx;
  readonly #session: Session;
  readonly #rows = new Map<string, StoredRow>();
  readonly #unlock = new Map<string, () => void>();
  #values: Changes = new Map();
  #saved: Changes | null = null;
  #unlockValues: Promise<() => void> | null = null;
  #open = true;
  #inUse = true;

  constructor(session: Session) {
    this.#session = session;
    this.tx = this.handle(() => this.#inUse);
  }

  /** What one handler works through while `isOpen` says so; what it had begun before is refused from then on too. */
  handle(isOpen: () => boolean): MemoryTx {
    const use = <T>(operation: string, run: () => T): Promise<T> =>
      this.#use(operation, isOpen, run);
    return {
      get: (key) => use('tx.get', () => this.#get(key)),
      set: (key, value) => use('tx.set', () => void this.#values.set(key, toJson(value, key))),
      delete: (key) => use('tx.delete', () => void this.#values.set(key, undefined)),
      list: (prefix) => use('tx.list', () => this.#list(prefix)),
    };
  }

  /** From here on the handle that the handler has is dead. */
  endUse(): void {
    this.#inUse = false;
  }

  insert(entry: BarrierEntry, state: 'running' | 'superseded'): Promise<boolean> {
    return this.#pass('insert', async () => {
      const { commandId } = entry;
      if (this.#rows.has(commandId)) return false;
      await this.#lock(commandId);
      if (this.#session.database.rows.has(commandId)) return false;
      this.#rows.set(commandId, {
        entry: structuredClone(entry),
        outcome: { state },
        fencingToken: null,
        leaseExpiresAt: null,
      });
      return true;
    });
  }

  read(commandId: string): Promise<BarrierRow | null> {
    return this.#pass('read', () => {
      const row = this.#rows.get(commandId) ?? this.#session.database.rows.get(commandId);
      return row === undefined ? null : rowOf(row, this.#session.database.now());
    });
  }

  takeOver(commandId: string): Promise<boolean> {
    return this.#pass('takeOver', async () => {
      await this.#lock(commandId);
      const row = this.#session.database.rows.get(commandId);
      if (row === undefined || !isFree(row, this.#session.database.now())) return false;
      const fencingToken = this.#session.database.nextToken();
      this.#rows.set(commandId, { ...row, fencingToken, leaseExpiresAt: null });
      return true;
    });
  }

  answer(commandId: string, answer: Answer): Promise<void> {
    this.endUse();
    return this.#pass('answer', () => {
      const row = this.#rows.get(commandId);
      if (row === undefined)
        throw new Error(`Barrier row ${commandId} is not of this transaction.`);
      const outcome = structuredClone(answer);
      this.#rows.set(commandId, { ...row, outcome, leaseExpiresAt: null });
    });
  }

  savepoint(): Promise<void> {
    return this.#pass('savepoint', () => {
      this.#saved = new Map(this.#values);
    });
  }

  rollbackToSavepoint(): Promise<void> {
    this.endUse();
    return this.#pass('rollbackToSavepoint', () => {
      this.#values = new Map(this.#saved ?? []);
    });
  }

  /** Takes away a row that it has inserted. */
  withdraw(commandId: string): Promise<void> {
    return this.#pass('withdraw', () => void this.#rows.delete(commandId));
  }

  /** All of it becomes visible in one step. */
  commit(): void {
    this.#assertOpen();
    for (const [id, row] of this.#rows) this.#session.database.rows.set(id, row);
    for (const [key, value] of this.#values) {
      if (value === undefined) this.#session.database.values.delete(key);
      else this.#session.database.values.set(key, value);
    }
    this.close();
  }

  /** Gives back all locks; what was not committed is gone. */
  close(): void {
    this.#open = false;
    for (const unlock of this.#unlock.values()) unlock();
    void this.#unlockValues?.then((unlock) => unlock());
  }

  async #lock(commandId: string): Promise<void> {
    if (this.#unlock.has(commandId)) return;
    const unlock = await this.#session.database.lockRow(commandId);
    // Closed while it waited: the lock must not stay with a transaction that is gone.
    if (!this.#open) unlock();
    this.#assertOpen();
    this.#unlock.set(commandId, unlock);
  }

  async #use<T>(operation: string, isOpen: () => boolean, run: () => T): Promise<T> {
    assertUsable(isOpen());
    return this.#pass(operation, async () => {
      this.#unlockValues ??= this.#session.database.lockValues();
      await this.#unlockValues;
      assertUsable(this.#open && isOpen());
      return run();
    });
  }

  #pass<T>(operation: string, run: () => T | Promise<T>): Promise<T> {
    return this.#session.pass(operation, () => {
      this.#assertOpen();
      return run();
    });
  }

  #assertOpen(): void {
    assertUsable(this.#open);
  }

  #get(key: string): Json | undefined {
    const { values } = this.#session.database;
    const value = this.#values.has(key) ? this.#values.get(key) : values.get(key);
    return value === undefined ? undefined : structuredClone(value);
  }

  #list(prefix: string): [string, Json][] {
    const keys = new Set([...this.#session.database.values.keys(), ...this.#values.keys()]);
    const found: [string, Json][] = [];
    for (const key of [...keys].filter((one) => one.startsWith(prefix)).sort()) {
      const value = this.#get(key);
      if (value !== undefined) found.push([key, value]);
    }
    return found;
  }
}

function assertUsable(isOpen: boolean): void {
  if (isOpen) return;
  throw new Error('The transaction has ended; a handler must not use `tx` after it returned.');
}

/** Whether a claim may be made or taken over. */
export function isFree(row: StoredRow, now: number): boolean {
  return row.outcome.state === 'running' && (row.leaseExpiresAt ?? -Infinity) <= now;
}

export function rowOf(row: StoredRow, now: number): BarrierRow {
  const { commandId, input } = row.entry;
  const head = { commandId, input: structuredClone(input) };
  const { outcome } = row;
  if (outcome.state !== 'running') return { ...head, ...structuredClone(outcome) };
  const leaseRemainingMs = Math.max(0, (row.leaseExpiresAt ?? now) - now);
  return { ...head, state: 'running', leaseRemainingMs };
}
