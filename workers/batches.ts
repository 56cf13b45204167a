/**
 * Many commands in one transaction: what has come while the last transaction was under way goes together.
 *
 * Guards that a batch differs from its commands one by one in cost only (I8): each handler has a part of its
 * own that is taken back when it throws or rejects, and a row stays only for what was answered. Whenever
 * anything else goes wrong (a conflict, a lost connection, a handler that takes long) the whole transaction
 * is rolled back and its commands run each by itself, which is the way that defines what must come out.
 */
import type { BusMessage } from '../engine/ports.ts';
import {
  replyTo,
  verdictOf,
  type ExecuteDeps,
  type Ran,
  type Target,
  type Told,
} from './barrier.ts';
import { CommandFailure, textOf } from './failures.ts';
import type { Handler } from './handlers.ts';
import type {
  Answer,
  BarrierEntry,
  BarrierRow,
  Batch,
  Insert,
  Original,
  Part,
  ParticipantStore,
  PartKind,
} from './ports.ts';
import { HandlerAbandoned, NoWayBack } from './ports.ts';
import { RunScope } from './run.ts';
import { inputFor, runHandler } from './transactions.ts';

/** Most commands in a transaction: each may take a subtransaction, and Postgres caches 64 of them a backend. */
export const MAX_BATCH = 50;
/**
 * Longest that the handlers of a batch may take, and before them the wait for its rows, in ms: what one that hangs
 * costs the others. A database that takes long by itself, to begin or to commit, is not hurried by running all again.
 */
export const BATCH_LIMIT_MS = 1_000;

/** How many times the time that was meant for its handlers a batch may take, before those behind go elsewhere. */
const OVERRUN = 4;

/** A command for a transactional handler, and the step's row that a compensation takes first. */
export interface BatchItem<Tx> {
  readonly target: Target<Tx>;
  readonly run: Extract<Handler<Tx>, { kind: 'transactional' }>['run'];
  readonly step: BarrierEntry | null;
  /** Asked just before it would run. */
  readonly wanted: () => boolean;
}

/** `alone`: it is to be run by itself. `unwanted`: it was not begun. */
type Ended = Ran | 'alone' | 'unwanted';
type Settled = { outcome: Ended } | { error: unknown };
/** `again`: it was not begun, and goes into the next batch. */
type Left = Settled | 'again';

/** Its handler is to be run. */
interface Ready<Tx> {
  readonly one: Waiting<Tx>;
  readonly original: Original | null;
}

interface Waiting<Tx> {
  readonly item: BatchItem<Tx>;
  readonly expectedMs: number;
  readonly settle: (settled: Settled) => void;
}

type BatchStore<Tx> = ParticipantStore<Tx> & Required<Pick<ParticipantStore<Tx>, 'batch'>>;

export function canBatch<Tx>(store: ParticipantStore<Tx>): store is BatchStore<Tx> {
  return store.batch !== undefined;
}

export class Batches<Tx> {
  readonly #deps: ExecuteDeps<Tx>;
  readonly #store: BatchStore<Tx>;
  readonly #stop: AbortSignal;
  /** In order of arrival; bounded by the worker's in-flight window. */
  #waiting: Waiting<Tx>[] = [];
  #running = 0;
  #starting = false;

  /** @param stop aborted when the worker wants its handlers to end */
  constructor(deps: ExecuteDeps<Tx>, store: BatchStore<Tx>, stop: AbortSignal) {
    this.#deps = deps;
    this.#store = store;
    this.#stop = stop;
  }

  /** Of one saga there must be at most one at a time. @throws what the handler threw */
  async run(item: BatchItem<Tx>): Promise<Ended> {
    const { deadlineAt, entry } = item.target;
    const expectedMs = this.#deps.pace.quick(entry.command);
    // A batch has one abort signal and no deadline: a command whose own is near has to be by itself.
    const near = deadlineAt !== undefined && deadlineAt - this.#deps.clock.now() <= BATCH_LIMIT_MS;
    if (expectedMs === null || near) return 'alone';
    const settled = await new Promise<Settled>((settle) => {
      this.#waiting.push({ item, expectedMs, settle });
      void this.#pump();
    });
    if ('error' in settled) throw settled.error;
    return settled.outcome;
  }

  /**
   * Starts a batch at once when none runs; beside others only when it is a full one. So few commands gather
   * while a transaction is under way, and many use all slots.
   */
  async #pump(): Promise<void> {
    while (!this.#starting && this.#waiting.length > 0) {
      if (this.#running > 0 && !this.#isFull()) return;
      this.#starting = true;
      await this.#deps.slots.take();
      this.#starting = false;
      const taken = this.#waiting.splice(0, this.#gather());
      this.#running += 1;
      void this.#runBatch(taken).finally(() => {
        this.#running -= 1;
        this.#deps.slots.give();
        void this.#pump();
      });
    }
  }

  #isFull(): boolean {
    return (
      this.#waiting.length >= MAX_BATCH ||
      this.#waiting.reduce((sum, one) => sum + one.expectedMs, 0) >= this.#deps.pace.budgetMs
    );
  }

  /** How many of those that wait go into the next batch. */
  #gather(): number {
    let count = 0;
    for (let ms = 0; count < Math.min(this.#waiting.length, MAX_BATCH); count += 1) {
      if (ms >= this.#deps.pace.budgetMs) break;
      ms += this.#waiting[count]?.expectedMs ?? 0;
    }
    return count;
  }

  async #runBatch(taken: readonly Waiting<Tx>[]): Promise<void> {
    const wanted = taken.filter((one) => {
      if (one.item.wanted()) return true;
      one.settle({ outcome: 'unwanted' });
      return false;
    });
    if (wanted.length === 0) return;
    const { clock, log, pace, service } = this.#deps;
    const scope = new RunScope(clock, this.#stop);
    const batch = new Run(this.#deps, scope, wanted);
    const startedAt = clock.monotonic();
    try {
      const settled = await this.#store.batch((rows) => batch.run(rows));
      pace.noteTransaction(clock.monotonic() - startedAt - batch.handlersMs);
      this.#tell(wanted, settled);
    } catch (error) {
      const fields = { service, commands: wanted.length, error: textOf(error) };
      log.debug(fields, 'a batch was rolled back; its commands are run one by one');
      if (scope.signal.aborted && !this.#stop.aborted) batch.blame();
      for (const one of wanted) one.settle({ outcome: 'alone' });
    } finally {
      scope.dispose();
    }
  }

  #tell(items: readonly Waiting<Tx>[], left: ReadonlyMap<Waiting<Tx>, Left>): void {
    const again: Waiting<Tx>[] = [];
    for (const one of items) {
      const became = left.get(one) ?? { outcome: 'alone' };
      if (became === 'again') again.push(one);
      else one.settle(became);
    }
    this.#waiting = [...again, ...this.#waiting];
  }
}

function tooLong(): CommandFailure {
  const text = 'The handler shared a transaction, which took too long; it is run again by itself.';
  return new CommandFailure('HANDLER_TIMEOUT', text);
}

/** One batch, from its first row to its answers. */
class Run<Tx> {
  readonly #deps: ExecuteDeps<Tx>;
  readonly #scope: RunScope;
  readonly #items: readonly Waiting<Tx>[];
  readonly #left = new Map<Waiting<Tx>, Left>();
  readonly #answers = new Map<string, Answer>();
  readonly #withdrawn: string[] = [];
  /** The answers with what they say on the bus. */
  readonly #told: (Told & { message: BusMessage })[] = [];
  #ours: ReadonlySet<string> = new Set();
  #rows: ReadonlyMap<string, BarrierRow> = new Map();
  /** Those whose handlers are at work. */
  readonly #atWork = new Set<Waiting<Tx>>();
  /** By the monotonic clock. */
  #limitAt = Infinity;
  /** How long all handlers took together, their savepoints included. */
  handlersMs = 0;

  constructor(deps: ExecuteDeps<Tx>, scope: RunScope, items: readonly Waiting<Tx>[]) {
    this.#deps = deps;
    this.#scope = scope;
    this.#items = items;
  }

  /** Handlers that were at work when the batch took too long are no longer put with others for a while. */
  blame(): void {
    for (const { item } of this.#atWork) this.#deps.pace.heldUp(item.target.entry.command);
  }

  async run(batch: Batch<Tx>): Promise<ReadonlyMap<Waiting<Tx>, Left>> {
    const { clock, pace, transactionTimeoutMs } = this.#deps;
    const shortMs = Math.min(BATCH_LIMIT_MS, transactionTimeoutMs);
    const endsAt = clock.monotonic() + transactionTimeoutMs;
    this.#limitAt = endsAt;
    void this.#watch(shortMs);
    // A row that another transaction has is waited for no longer than a handler.
    const begun = batch.begun.then(() => {
      this.#limitAt = clock.monotonic() + shortMs;
    });
    await this.#scope.guard(Promise.all([this.#enter(batch), begun]));
    const startedAt = clock.monotonic();
    this.#limitAt = startedAt + shortMs;
    const ready = this.#items.map((one) => this.#look(one)).filter((one) => one !== null);
    let closed: Left | null = null;
    for (let first = ready.shift(); first !== undefined; first = ready.shift()) {
      const next = [first, ...ready.splice(0, this.#countBeside(first, ready))];
      if (closed !== null) {
        for (const { one } of next) this.#withdraw(one, closed);
        continue;
      }
      const isLast =
        next.length > 1
          ? await this.#runTogether(batch, next)
          : await this.#runPart(batch, first, this.#kindOf(first));
      if (isLast) closed = { outcome: 'alone' };
      this.handlersMs = clock.monotonic() - startedAt;
      if (this.handlersMs > OVERRUN * pace.budgetMs) closed ??= 'again';
    }
    this.#limitAt = endsAt;
    const replies = this.#told.map(({ message }) => message);
    const end = batch.finish(this.#answers, this.#withdrawn, replies);
    const { published } = await this.#scope.guard(end);
    for (const told of this.#told) told.published = published;
    return this.#left;
  }

  /** Looks each `everyMs`, the shortest of the limits, so that none that is set meanwhile is overslept. */
  async #watch(everyMs: number): Promise<void> {
    const { clock } = this.#deps;
    for (;;) {
      const leftMs = this.#limitAt - clock.monotonic();
      // It is not waited for: those behind it have waited long enough.
      if (leftMs <= 0) return this.#scope.abort(tooLong(), 0);
      if (!(await this.#scope.sleep(Math.min(leftMs, everyMs)))) return;
    }
  }

  async #enter(batch: Batch<Tx>): Promise<void> {
    const inserts: Insert[] = [];
    for (const { item } of this.#items) {
      if (item.step !== null) inserts.push({ entry: item.step, state: 'superseded' });
      inserts.push({ entry: item.target.entry, state: 'running' });
    }
    this.#ours = await batch.insert(inserts);
    const others = inserts.map(({ entry }) => entry.commandId).filter((id) => !this.#ours.has(id));
    if (others.length > 0) this.#rows = await batch.read(others);
  }

  /** How many of those behind it are begun at once with it: where all are trusted to be one statement each. */
  #countBeside(first: Ready<Tx>, behind: readonly Ready<Tx>[]): number {
    if (!this.#isSingle(first)) return 0;
    const end = behind.findIndex((ready) => !this.#isSingle(ready));
    return end < 0 ? behind.length : end;
  }

  #isSingle({ one }: Ready<Tx>): boolean {
    return this.#deps.trust.hasSingle(one.item.target.entry.command);
  }

  /** Of one that is begun when the one before it has ended. */
  #kindOf({ one }: Ready<Tx>): PartKind {
    return this.#deps.trust.has(one.item.target.entry.command) ? 'kept' : 'undoable';
  }

  /** @returns false: none leaves anything behind. @throws what costs the whole batch, when all of them have ended */
  async #runTogether(batch: Batch<Tx>, all: readonly Ready<Tx>[]): Promise<false> {
    const { clock, pace } = this.#deps;
    const startedAt = clock.monotonic();
    const begun = batch.together(() => all.map((ready) => this.#runPart(batch, ready, 'single')));
    const ends = await Promise.allSettled(begun);
    const shareMs = (clock.monotonic() - startedAt) / all.length;
    for (const { one } of all) pace.note(one.item.target.entry.command, shareMs);
    const errors = ends.flatMap((end) =>
      end.status === 'rejected' ? [end.reason as unknown] : [],
    );
    if (errors.length === 0) return false;
    // Of a handler that still goes on the transaction's end must know: its connection can't be used again.
    throw errors.find((error) => error instanceof HandlerAbandoned) ?? errors[0];
  }

  /** What the rows say about a command. @returns null when its handler is not to be run. */
  #look(one: Waiting<Tx>): Ready<Tx> | null {
    const { step, target } = one.item;
    const { commandId } = target.entry;
    if (!this.#ours.has(commandId)) {
      const row = this.#rows.get(commandId);
      // In flight elsewhere, or left behind by a claim: its own transaction can tell, and take it over.
      if (row === undefined || row.state === 'running') this.#withdraw(one, { outcome: 'alone' });
      else this.#settle(one, { verdict: verdictOf(row), repeated: true });
      return null;
    }
    if (step === null) return { one, original: null };
    const row = this.#ours.has(step.commandId) ? null : this.#rows.get(step.commandId);
    if (row === undefined || row?.state === 'running') {
      this.#withdraw(one, { outcome: 'alone' });
      return null;
    }
    if (row === null || row.state === 'rejected' || row.state === 'superseded') {
      // Null compensation: answered, and stored like any other answer, without the handler.
      const { command } = one.item.target;
      const answer: Answer = { state: 'done', output: null };
      this.#answer(one, answer, this.#deps.encode(replyTo(command, answer), command));
      return null;
    }
    const output = row.state === 'done' ? row.output : null;
    return { one, original: { commandId: step.commandId, input: row.input, output } };
  }

  /** @returns whether no handler may come after it. @throws what costs the whole batch */
  async #runPart(batch: Batch<Tx>, { one, original }: Ready<Tx>, kind: PartKind): Promise<boolean> {
    const deps = this.#deps;
    const target = { ...one.item.target, original };
    const { command } = target.entry;
    this.#atWork.add(one);
    const part = batch.part(kind);
    try {
      const input = inputFor(deps, target);
      const { answer, message } = await runHandler(
        deps,
        target,
        one.item.run,
        input,
        part.tx,
        this.#scope,
        kind !== 'single',
      );
      const isKept = answer.state === 'done';
      if (!isKept) deps.trust.failed(command);
      const ended = await this.#end(one, part, isKept ? 'keep' : 'undo');
      if (isKept && ended.sound) deps.trust.succeeded(command, part.statements);
      // A success on top of a failed statement: by itself it will be told so.
      if (!ended.sound && isKept) this.#withdraw(one, { outcome: 'alone' });
      else this.#answer(one, answer, message);
      // It would be the last one of each batch.
      if (ended.last) deps.pace.heldUp(command);
      return ended.last;
    } catch (error) {
      if (this.#scope.signal.aborted || deps.store.isTransient(error)) throw error;
      if (kind === 'single') this.#blameOne(command, part, error);
      else deps.trust.failed(command);
      const ended = await this.#end(one, part, 'undo');
      // What the database refused may be owed to the company it was in.
      this.#withdraw(one, ended.sound ? { error } : { outcome: 'alone' });
      return false;
    }
  }

  async #end(one: Waiting<Tx>, part: Part<Tx>, what: 'keep' | 'undo'): ReturnType<Part<Tx>['end']> {
    try {
      return await this.#scope.guard(part.end(what));
    } finally {
      // Else it is one of those that the batch was given up for.
      if (!this.#scope.signal.aborted) this.#atWork.delete(one);
    }
  }

  /** Of those begun together: where another one has broken the transaction, this one fails with it. */
  #blameOne(command: string, part: Part<Tx>, error: unknown): void {
    const { trust } = this.#deps;
    const isVictim =
      part.failed === 'before' || (part.failed === null && error instanceof NoWayBack);
    if (part.statements > 1) trust.hadMore(command);
    else if (!isVictim) trust.failed(command);
  }

  #answer(one: Waiting<Tx>, answer: Answer, message: BusMessage): void {
    this.#answers.set(one.item.target.entry.commandId, answer);
    const told = { verdict: answer, repeated: false, message };
    this.#told.push(told);
    this.#settle(one, told);
  }

  #settle(one: Waiting<Tx>, ran: Ran): void {
    this.#left.set(one, { outcome: ran });
  }

  /** As if it had not been here: none of the rows that were inserted for it may stay. */
  #withdraw(one: Waiting<Tx>, left: Left): void {
    const { step, target } = one.item;
    for (const entry of [step, target.entry]) {
      if (entry !== null && this.#ours.has(entry.commandId)) this.#withdrawn.push(entry.commandId);
    }
    this.#left.set(one, left);
  }
}
