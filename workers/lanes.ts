/**
 * The in-flight window: commands of one saga run one after the other, different sagas side by side.
 *
 * Guards order within a saga, and how many commands are held in memory. A full window makes its caller
 * wait, and that is the back-pressure towards the bus. How many really run at once is up to `Slots`.
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
  readonly #maxInFlight: number;
  /** Tasks behind the running one, by key; null: none waits. A key with no running task has no entry. */
  readonly #lanes = new Map<string, Task[] | null>();
  readonly #watchers = new Set<() => void>();
  #inFlight = 0;

  constructor(maxInFlight: number) {
    this.#maxInFlight = maxInFlight;
  }

  /** Tasks held, running ones included. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /**
   * Puts a task once the window, and whatever `hasRoom` stands for, has room.
   * @returns false, without taking it, when `giveUp` says so meanwhile
   */
  async put(task: Task, giveUp: () => boolean, hasRoom: () => boolean): Promise<boolean> {
    while (!giveUp() && !(this.#inFlight < this.#maxInFlight && hasRoom())) await this.#changed();
    if (giveUp()) return false;
    this.#inFlight += 1;
    const lane = this.#lanes.get(task.key);
    if (lane === undefined) this.#start(task);
    else if (lane === null) this.#lanes.set(task.key, [task]);
    else lane.push(task);
    return true;
  }

  /** Resolves when nothing is held any more. */
  async idle(): Promise<void> {
    while (this.#inFlight > 0) await this.#changed();
  }

  /** Lets all that wait for room look again, and `giveUp`s are asked. */
  wake(): void {
    if (this.#watchers.size === 0) return;
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const watcher of watchers) watcher();
  }

  #start(task: Task): void {
    if (!this.#lanes.has(task.key)) this.#lanes.set(task.key, null);
    void task.run().finally(() => this.#ended(task.key));
  }

  #ended(key: string): void {
    this.#inFlight -= 1;
    const lane = this.#lanes.get(key) ?? [];
    let next = lane.shift();
    while (next !== undefined && !next.wanted()) {
      this.#inFlight -= 1;
      next = lane.shift();
    }
    if (next === undefined) this.#lanes.delete(key);
    else this.#start(next);
    this.wake();
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#watchers.add(resolve));
  }
}
