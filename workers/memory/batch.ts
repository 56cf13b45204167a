/**
 * The barrier of many commands in one transaction on the memory database.
 *
 * Guards the same as on Postgres: rows are locked in order of their ids before the first handler runs, and
 * a part that has ended can't be used any more.
 */
import {
  NoWayBack,
  type Answer,
  type BarrierRow,
  type Batch,
  type Insert,
  type Part,
  type PartKind,
} from '../ports.ts';
import type { MemoryTransaction, MemoryTx } from './transaction.ts';

export class MemoryBatch implements Batch<MemoryTx> {
  readonly begun = Promise.resolve();
  readonly #transaction: MemoryTransaction;

  constructor(transaction: MemoryTransaction) {
    this.#transaction = transaction;
  }

  async insert(rows: readonly Insert[]): Promise<ReadonlySet<string>> {
    const ours = new Set<string>();
    for (const { entry, state } of rows.toSorted(byId)) {
      if (await this.#transaction.insert(entry, state)) ours.add(entry.commandId);
    }
    return ours;
  }

  async read(commandIds: readonly string[]): Promise<ReadonlyMap<string, BarrierRow>> {
    const rows = new Map<string, BarrierRow>();
    for (const id of commandIds) {
      const row = await this.#transaction.read(id);
      if (row !== null) rows.set(id, row);
    }
    return rows;
  }

  part(kind: PartKind): Part<MemoryTx> {
    return new MemoryPart(this.#transaction, kind);
  }

  together<T>(begin: () => T): T {
    return begin();
  }

  async finish(
    answers: ReadonlyMap<string, Answer>,
    withdrawn: readonly string[],
  ): Promise<{ published: boolean }> {
    for (const id of withdrawn) await this.#transaction.withdraw(id);
    for (const [id, answer] of answers) await this.#transaction.answer(id, answer);
    return { published: false };
  }
}

class MemoryPart implements Part<MemoryTx> {
  readonly tx: MemoryTx;
  readonly #transaction: MemoryTransaction;
  /** Set at the first use of `tx`: before it there is nothing to go back from. */
  #saved: Promise<void> | null = null;
  readonly #kind: PartKind;
  #open = true;
  statements = 0;
  readonly failed = null;

  constructor(transaction: MemoryTransaction, kind: PartKind) {
    this.#transaction = transaction;
    this.#kind = kind;
    const tx = transaction.handle(() => this.#open);
    this.tx = {
      get: (key) => this.#use(() => tx.get(key)),
      set: (key, value) => this.#use(() => tx.set(key, value)),
      delete: (key) => this.#use(() => tx.delete(key)),
      list: (prefix) => this.#use(() => tx.list(prefix)),
    };
  }

  async end(what: 'keep' | 'undo'): Promise<{ sound: boolean; last: boolean }> {
    this.#open = false;
    await this.#saved;
    if (this.#isTooMuch()) throw new NoWayBack();
    if (what === 'keep' || this.#saved === null) return { sound: true, last: false };
    if (this.#kind !== 'undoable') throw new NoWayBack();
    await this.#transaction.rollbackToSavepoint();
    return { sound: true, last: false };
  }

  async #use<T>(run: () => Promise<T>): Promise<T> {
    if (this.#open) {
      this.statements += 1;
      if (this.#isTooMuch()) throw new NoWayBack();
      this.#saved ??= this.#kind === 'undoable' ? this.#transaction.savepoint() : Promise.resolve();
    }
    await this.#saved;
    return run();
  }

  #isTooMuch(): boolean {
    return this.#kind === 'single' && this.statements > 1;
  }
}

function byId(a: Insert, b: Insert): number {
  return a.entry.commandId < b.entry.commandId ? -1 : 1;
}
