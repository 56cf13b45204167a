/**
 * Gives back the memory that a burst of work left behind, once the process has become quiet.
 *
 * Guards that a node with many sleeping sagas stays small: V8 collects by what is allocated, so a process that
 * falls idle keeps the garbage of its last busy minute, several times of what is alive, for as long as
 * it sleeps. One full collection is enough: V8 goes on by itself from there and unmaps what is free. It stops the
 * process for less than 0.1 s, so it is never done while there is work. Losing this costs memory, nothing else.
 */
import { performance } from 'node:perf_hooks';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const LOOK_MS = 2_000;
/** Share of the last LOOK_MS in which the event loop was busy, below which a pause disturbs nobody. */
const QUIET_UTILIZATION = 0.1;
/** Growth of the heap since it was last seen small that is worth a collection. */
const GROWTH_BYTES = 48_000_000;
/** At the least between two collections: work that comes in drips must not be stopped for each drop. */
const REST_MS = 30_000;

/** What it looks at and does, by name, so that a test can say it. */
export interface HeapHost {
  /** Share of the time since the last call in which the event loop was busy, 0 to 1. */
  utilization(): number;
  /** Bytes that V8 has taken from the system for its heap. */
  heapBytes(): number;
  /** Milliseconds of a clock that never goes back. */
  monotonic(): number;
  collect(): void;
}

export class HeapKeeper {
  readonly #host: HeapHost;
  #timer: NodeJS.Timeout | null = null;
  /** The smallest that the heap was since the last collection. */
  #smallestBytes = Infinity;
  #collectedAt = -Infinity;

  constructor(host: HeapHost = nodeHost()) {
    this.#host = host;
  }

  /** Looks every LOOK_MS until `stop`; does not keep the process alive. */
  start(): void {
    this.#timer ??= setInterval(() => this.look(), LOOK_MS).unref();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** One look. @returns whether it collected */
  look(): boolean {
    const { utilization, heapBytes, monotonic, collect } = this.#host;
    const isQuiet = utilization() < QUIET_UTILIZATION;
    const bytes = heapBytes();
    this.#smallestBytes = Math.min(this.#smallestBytes, bytes);
    const hasGrown = bytes - this.#smallestBytes >= GROWTH_BYTES;
    const now = monotonic();
    if (!isQuiet || !hasGrown || now - this.#collectedAt < REST_MS) return false;
    this.#collectedAt = now;
    collect();
    // What is alive now is the new measure, however much it is: it must not be collected again and again.
    this.#smallestBytes = heapBytes();
    return true;
  }
}

/** This process. */
export function nodeHost(): HeapHost {
  // The function is there only for contexts that are made after the flag was set.
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  let last = performance.eventLoopUtilization();
  return {
    utilization: () => {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, last);
      last = now;
      return utilization;
    },
    heapBytes: () => getHeapStatistics().total_heap_size,
    monotonic: () => performance.now(),
    collect,
  };
}
