/**
 * The in-flight window: commands of one saga run one after the other, different sagas side by side.
 *
 * Guards order within a saga, and two limits: how many run, and how many are held in memory. A full
 * window makes its caller wait, and that is the back-pressure towards the bus.
 */
export interface Task {
  /** Saga id: tasks of one key run in the order in which they were put. */
  readonly key: string;
  /** Asked just before it would run: a task that is no longer wanted is dropped. */
  readonly wanted: () => boolean;
  /** Must not reject. */
  readonly run: () => Promise<void>;
}

export class Lanes {
  readonly #concurrency: number;
  readonly #maxInFlight: number;
  /** Tasks that wait, by key; a key without waiting tasks has no entry. */
  readonly #waiting = new Map<string, Task[]>();
  readonly #busy = new Set<string>();
  /** Keys that could run at once, in order of arrival. */
  readonly #ready: string[] = [];
  readonly #watchers = new Set<() => void>();
  #inFlight = 0;

  constructor(concurrency: number, maxInFlight: number) {
    this.#concurrency = concurrency;
    this.#maxInFlight = maxInFlight;
  }

  /** Tasks held, running ones included. */
  get inFlight(): number {
    return this.#inFlight;
  }

  get running(): number {
    return this.#busy.size;
  }

  /**
   * Puts a task once the window, and whatever `hasRoom` stands for, has room.
   * @returns false, without taking it, when `giveUp` says so meanwhile
   */
  async put(task: Task, giveUp: () => boolean, hasRoom: () => boolean): Promise<boolean> {
    while (!giveUp() && !(this.#inFlight < this.#maxInFlight && hasRoom())) await this.#changed();
    if (giveUp()) return false;
    this.#inFlight += 1;
    const lane = this.#waiting.get(task.key);
    if (lane !== undefined) lane.push(task);
    else {
      this.#waiting.set(task.key, [task]);
      if (!this.#busy.has(task.key)) this.#ready.push(task.key);
    }
    this.#pump();
    return true;
  }

  /** Resolves when nothing is held any more. */
  async idle(): Promise<void> {
    while (this.#inFlight > 0) await this.#changed();
  }

  /** Lets all that wait look again: tasks that are no longer wanted go, and `giveUp`s are asked. */
  wake(): void {
    this.#pump();
    this.#notify();
  }

  #pump(): void {
    while (this.#busy.size < this.#concurrency) {
      const key = this.#ready.shift();
      if (key === undefined) return;
      const task = this.#nextWanted(key);
      if (task === undefined) continue;
      this.#busy.add(key);
      void task.run().finally(() => this.#ended(key));
    }
  }

  #nextWanted(key: string): Task | undefined {
    const lane = this.#waiting.get(key) ?? [];
    for (let task = lane.shift(); task !== undefined; task = lane.shift()) {
      if (lane.length === 0) this.#waiting.delete(key);
      if (task.wanted()) return task;
      this.#inFlight -= 1;
    }
    this.#waiting.delete(key);
    return undefined;
  }

  #ended(key: string): void {
    this.#busy.delete(key);
    this.#inFlight -= 1;
    if (this.#waiting.has(key)) this.#ready.push(key);
    this.wake();
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#watchers.add(resolve));
  }

  #notify(): void {
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const watcher of watchers) watcher();
  }
}
