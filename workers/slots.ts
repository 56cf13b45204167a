/**
 * How many pieces of work run at once in a worker: a command by itself, or a batch of them, takes a slot.
 *
 * Guards the worker's `concurrency`; whoever waits is let in in order of arrival.
 */
export class Slots {
  readonly #waiters: (() => void)[] = [];
  #free: number;

  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    await this.take();
    try {
      return await work();
    } finally {
      this.give();
    }
  }

  /** Bounded by the worker's in-flight window: each waiter stands for a command that is held. */
  async take(): Promise<void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  give(): void {
    const next = this.#waiters.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}
