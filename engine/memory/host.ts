/**
 * A host: the process that a memory adapter is used from. Every I/O call of an adapter goes through it.
 *
 * Guards that one adapter serves two masters: on a plain host calls settle at once (fast tests, test
 * kits); on a node of a simulated `World` they are delayed, fail, or never return, as its faults say.
 */
import type { Clock } from '../ports.ts';
import { SagaxError } from '../core/errors.ts';

/** One I/O call: what it does to the lasting state, in one step, and the errors it can end with. */
export interface IoCall<T> {
  /** Names the call in faults and traces, e.g. `log.append`. */
  point: string;
  /** Changes or reads the lasting state. Runs at most once, atomically. */
  work: () => T;
  /** The error when nothing was done. Default: DATABASE_UNAVAILABLE. */
  failure?: () => Error;
  /** The error when it may or may not have been done. Default: as `failure`, for calls that may be repeated. */
  unknown?: () => Error;
  /** Does a part of the work, for calls that are not atomic (a publish of many messages). */
  partial?: (share: number) => void;
}

export interface Host {
  readonly name: string;
  readonly clock: Clock;
  /** False once the process has died: nothing it does counts any more. */
  readonly alive: boolean;
  io<T>(call: IoCall<T>): Promise<T>;
  /** Calls back each time the process has gone silent (died, or stopped) for `afterMs`. */
  onSilent(afterMs: number, listener: () => void): void;
}

/** A host without faults. `kill()` makes it a process that has died without closing anything. */
export class PlainHost implements Host {
  readonly name: string;
  readonly clock: Clock;
  #alive = true;
  readonly #listeners: (() => void)[] = [];

  constructor(clock: Clock, name = 'host') {
    this.clock = clock;
    this.name = name;
  }

  get alive(): boolean {
    return this.#alive;
  }

  async io<T>(call: IoCall<T>): Promise<T> {
    if (!this.#alive) return never();
    // One turn of the microtask queue, so that no caller can come to rely on a synchronous effect.
    await Promise.resolve();
    return this.#alive ? call.work() : never();
  }

  onSilent(_afterMs: number, listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Dies: pending and later calls never settle; its leases and memberships lapse at once. */
  kill(): void {
    this.#alive = false;
    for (const listener of this.#listeners) listener();
  }
}

/** A promise of a process that is no more. */
export function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined);
}

export function databaseUnavailable(point: string): SagaxError {
  return new SagaxError(
    'DATABASE_UNAVAILABLE',
    `The database did not answer ${point}; try again when it is back.`,
  );
}

export function busUnavailable(point: string): SagaxError {
  return new SagaxError(
    'BUS_UNAVAILABLE',
    `The bus did not answer ${point}; try again when it is back.`,
  );
}
