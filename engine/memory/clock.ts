/**
 * Clocks for plain hosts: the machine's own, and one that a test moves by hand.
 *
 * The one place in the engine's memory adapters that reads the wall clock; the simulator has its own.
 */
import { performance } from 'node:perf_hooks';
import type { Clock } from '../ports.ts';

/** Longest delay that setTimeout takes (2^31 - 1 ms); longer sleeps go in pieces of it. */
const MAX_TIMEOUT_MS = 2_147_483_647;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  async sleep(ms, signal) {
    let rest = ms;
    while (rest > MAX_TIMEOUT_MS) {
      if (!(await sleepPiece(MAX_TIMEOUT_MS, signal))) return false;
      rest -= MAX_TIMEOUT_MS;
    }
    return sleepPiece(rest, signal);
  },
};

function sleepPiece(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
  if (signal?.aborted === true) return Promise.resolve(false);
  return new Promise((resolve) => {
    const stop = (): void => {
      clearTimeout(timer);
      resolve(false);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve(true);
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

interface Sleeper {
  dueAt: number;
  wake: (value: boolean) => void;
}

/** Stands still until `advance` is called; sleepers wake in the order of their time. */
export class ManualClock implements Clock {
  #now: number;
  readonly #startedAt: number;
  readonly #sleepers = new Set<Sleeper>();
  /** Resolved when the number of sleepers grows, for `sleeping`. */
  #watchers: { count: number; resolve: () => void }[] = [];

  /** @param startAt ms since the epoch. Default 2026-01-01T00:00:00Z. */
  constructor(startAt = 1_767_225_600_000) {
    this.#now = startAt;
    this.#startedAt = startAt;
  }

  now(): number {
    return this.#now;
  }

  monotonic(): number {
    return this.#now - this.#startedAt;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<boolean> {
    if (signal?.aborted === true) return Promise.resolve(false);
    return new Promise((resolve) => {
      const sleeper: Sleeper = {
        dueAt: this.#now + Math.max(0, ms),
        wake: (value) => {
          this.#sleepers.delete(sleeper);
          signal?.removeEventListener('abort', stop);
          resolve(value);
        },
      };
      const stop = (): void => sleeper.wake(false);
      signal?.addEventListener('abort', stop, { once: true });
      this.#sleepers.add(sleeper);
      this.#watchers = this.#watchers.filter((watcher) => {
        if (this.#sleepers.size < watcher.count) return true;
        watcher.resolve();
        return false;
      });
    });
  }

  /** Resolves once at least `count` sleeps are under way: what a test awaits before it advances. */
  sleeping(count = 1): Promise<void> {
    if (this.#sleepers.size >= count) return Promise.resolve();
    return new Promise((resolve) => this.#watchers.push({ count, resolve }));
  }

  /**
   * Moves time on by `ms`, waking what falls due, each at its own time; what a woken one starts (and sleeps
   * on) within the span is waked too. On return all that was set off has run as far as it goes by itself.
   */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    await settle();
    for (;;) {
      let next: Sleeper | undefined;
      for (const sleeper of this.#sleepers) {
        if (sleeper.dueAt <= until && (next === undefined || sleeper.dueAt < next.dueAt))
          next = sleeper;
      }
      if (next === undefined) break;
      this.#now = Math.max(this.#now, next.dueAt);
      next.wake(true);
      await settle();
    }
    this.#now = until;
  }
}

/** Lets every promise that can settle without outside help do so. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
