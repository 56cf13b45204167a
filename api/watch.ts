/**
 * One poller for all who wait in this process: long polls, event streams, sagas accepted a moment ago.
 *
 * Guards the database: however many wait, each tick is one `reader.getMany`, and their number has a limit, of
 * which one caller may have half. The pace adapts: 10 ms after something changed or someone came, slower up to
 * 250 ms while nothing does. Nothing is kept: if the process dies, clients ask again.
 */
import { SagaxError } from '../engine/core/errors.ts';
import { TERMINAL_STATUSES } from '../engine/core/events.ts';
import type { Clock, SagaSummary } from '../engine/ports.ts';
import type { MissingPart, SagaReader } from '../engine/ports-read.ts';

const FASTEST_MS = 10;
const SLOWEST_MS = 250;
/** While the database does not answer, asking faster only adds to its trouble. */
const FAILED_MS = 500;
/** How many callers have to take all that each may, until there is nothing left for others. */
const CALLERS_AT_LIMIT = 2;

/** A client that waits. */
export interface Waiter {
  /** Name of its principal, of whose share it is one. */
  caller: string;
  /** Aborted when it is no longer there. */
  gone: AbortSignal;
}

export interface Watcher {
  /** Whose share it counts for. */
  caller: string;
  /** Called at every tick that found the saga. */
  onSummary: (summary: SagaSummary) => void;
  /** The process is closing: no more ticks will come. */
  onClosed: () => void;
}

interface Watched {
  namespace: string;
  sagaId: string;
  streamVersion: number;
  /** Why its part of the log did not answer to the last tick; null when it did. */
  failure: Error | null;
  watchers: Set<Watcher>;
}

export class SagaWatch {
  readonly #reader: Pick<SagaReader, 'getMany'>;
  readonly #clock: Clock;
  readonly #limit: number;
  readonly #share: number;
  readonly #onError: (error: unknown) => void;
  readonly #watched = new Map<string, Watched>();
  readonly #closing = new AbortController();
  #count = 0;
  readonly #counts = new Map<string, number>();
  #running = false;
  #paceMs = FASTEST_MS;
  /** Cuts the pause between two ticks short. */
  #nap = new AbortController();

  constructor(options: {
    reader: Pick<SagaReader, 'getMany'>;
    clock: Clock;
    limit: number;
    onError: (error: unknown) => void;
  }) {
    this.#reader = options.reader;
    this.#clock = options.clock;
    this.#limit = options.limit;
    this.#share = Math.ceil(options.limit / CALLERS_AT_LIMIT);
    this.#onError = options.onError;
  }

  /** Watchers under way. */
  get count(): number {
    return this.#count;
  }

  /**
   * Tells of the saga at every tick until the returned function is called.
   * @throws SagaxError OVERLOADED when as many wait as may, of all or of its caller
   */
  add(namespace: string, sagaId: string, watcher: Watcher): () => void {
    if (this.#count >= this.#limit) {
      throw new SagaxError(
        'OVERLOADED',
        `${this.#limit} requests already wait for sagas in this process. Try again after the time in Retry-After, or ask without waiting.`,
      );
    }
    const { caller } = watcher;
    const ofCaller = this.#counts.get(caller) ?? 0;
    if (ofCaller >= this.#share) {
      throw new SagaxError(
        'OVERLOADED',
        `${this.#share} of your requests already wait for sagas in this process, as many as one caller's may. Wait for fewer at once, ask without waiting, or use more processes.`,
      );
    }
    if (this.#closing.signal.aborted) {
      watcher.onClosed();
      return () => undefined;
    }
    const key = `${namespace}/${sagaId}`;
    const watched = this.#watched.get(key) ?? {
      namespace,
      sagaId,
      streamVersion: -1,
      failure: null,
      watchers: new Set(),
    };
    this.#watched.set(key, watched);
    watched.watchers.add(watcher);
    this.#count += 1;
    this.#counts.set(caller, ofCaller + 1);
    this.#hurry();
    void this.#run();
    return () => {
      if (!watched.watchers.delete(watcher)) return;
      this.#count -= 1;
      this.#release(caller);
      if (watched.watchers.size === 0) this.#watched.delete(key);
    };
  }

  /**
   * Waits until `until` says yes to a summary.
   * @returns that summary; or the newest one seen (null when none was) at the end of `ms`, on abort and on close
   * @throws what the reader threw, when at the end of the time it did not answer
   */
  async wait(
    namespace: string,
    sagaId: string,
    until: (summary: SagaSummary) => boolean,
    { ms, waiter }: { ms: number; waiter: Waiter },
  ): Promise<SagaSummary | null> {
    let newest: SagaSummary | null = null;
    const stop = new AbortController();
    const remove = this.add(namespace, sagaId, {
      caller: waiter.caller,
      onSummary: (summary) => {
        newest = summary;
        if (until(summary)) stop.abort();
      },
      onClosed: () => stop.abort(),
    });
    try {
      const rang = await this.#clock.sleep(ms, AbortSignal.any([stop.signal, waiter.gone]));
      const failure = this.#watched.get(`${namespace}/${sagaId}`)?.failure ?? null;
      if (rang && failure !== null) throw failure;
      return newest;
    } finally {
      remove();
    }
  }

  /** Ends all waiting; watchers are told. */
  close(): void {
    this.#closing.abort();
    this.#nap.abort();
    for (const { watchers } of [...this.#watched.values()]) {
      for (const watcher of [...watchers]) watcher.onClosed();
    }
  }

  #release(caller: string): void {
    const rest = (this.#counts.get(caller) ?? 1) - 1;
    if (rest === 0) this.#counts.delete(caller);
    else this.#counts.set(caller, rest);
  }

  #hurry(): void {
    if (this.#paceMs <= FASTEST_MS) return;
    this.#paceMs = FASTEST_MS;
    this.#nap.abort();
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#watched.size > 0 && !this.#closing.signal.aborted) {
        await this.#tick();
        this.#nap = new AbortController();
        await this.#clock.sleep(this.#paceMs, this.#nap.signal);
      }
    } finally {
      this.#running = false;
    }
  }

  async #tick(): Promise<void> {
    let summaries: SagaSummary[];
    try {
      const keys = [...this.#watched.values()].map(({ namespace, sagaId }) => ({
        namespace,
        sagaId,
      }));
      const missing: MissingPart[] = [];
      summaries = await this.#reader.getMany(keys, { onMissing: (part) => missing.push(part) });
      // Those who wait for sagas of the other parts go on as ever.
      for (const watched of this.#watched.values()) {
        watched.failure = missing.find(({ holds }) => holds(watched.sagaId))?.error ?? null;
      }
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(String(error));
      for (const watched of this.#watched.values()) watched.failure = failure;
      this.#paceMs = FAILED_MS;
      this.#onError(error);
      return;
    }
    let changed = false;
    for (const summary of summaries) {
      const watched = this.#watched.get(`${summary.namespace}/${summary.sagaId}`);
      if (watched === undefined) continue;
      changed ||= watched.streamVersion !== summary.streamVersion;
      watched.streamVersion = summary.streamVersion;
      for (const watcher of [...watched.watchers]) watcher.onSummary(summary);
    }
    this.#paceMs = changed ? FASTEST_MS : Math.min(Math.ceil(this.#paceMs * 1.5), SLOWEST_MS);
  }
}

export function hasEnded(summary: SagaSummary): boolean {
  return TERMINAL_STATUSES.has(summary.status);
}
