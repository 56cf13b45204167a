/**
 * Group commit: calls that come while a statement is under way go out together in the next one.
 *
 * Guards that a node with many busy shards sends a few large statements in place of many small ones, that a
 * lone call leaves at once (there is no timer), that what can't be done together is done one by one and
 * so hits only its own caller, and that statements stay within bounds.
 */

/** What became of one item of a statement. */
export type Outcome<R> = { value: R } | { error: unknown } | 'alone';

export interface Gathering<T, R> {
  /** Statements with more than one item, or that open a slot, under way at once. */
  slots: number;
  /** Most items in one statement, and most of what `sizeOf` counts unless one item alone has more. */
  maxItems: number;
  maxSize: number;
  sizeOf: (item: T) => number;
  /** Two items of the same key are never under way at once; those of one key go in the order in which they came. */
  keyOf?: (item: T) => number;
  /** One statement for several items: an outcome for each, `alone` for those that must be tried by themselves. */
  together: (items: readonly T[]) => Promise<readonly Outcome<R>[]>;
  alone: (item: T) => Promise<R>;
}

interface Waiting<T, R> {
  item: T;
  resolve: (value: R) => void;
  reject: (error: unknown) => void;
}

export class Gatherer<T, R> {
  readonly #how: Gathering<T, R>;
  /** As long as the callers are many: a shard has one append and one load at a time, and now and then a flush. */
  #waiting: Waiting<T, R>[] = [];
  readonly #busy = new Set<number>();
  #underWay = 0;
  #isPlanned = false;

  constructor(how: Gathering<T, R>) {
    this.#how = how;
  }

  /** Joins the next statement, and settles with its own item's outcome. */
  run(item: T): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      this.#plan();
    });
  }

  /** Behind what is ready to run now: shards that were woken by the same answer come into the same statement. */
  #plan(): void {
    if (this.#isPlanned || this.#waiting.length === 0 || this.#underWay >= this.#how.slots) return;
    this.#isPlanned = true;
    setImmediate(() => this.#begin());
  }

  #begin(): void {
    this.#isPlanned = false;
    while (this.#underWay < this.#how.slots) {
      const taken = this.#take();
      if (taken.length === 0) return;
      this.#underWay += 1;
      void this.#send(taken);
    }
  }

  /** The oldest ones that fit, marked as busy. */
  #take(): Waiting<T, R>[] {
    const { maxItems, maxSize, sizeOf, keyOf } = this.#how;
    const taken: Waiting<T, R>[] = [];
    const left: Waiting<T, R>[] = [];
    const passedOver = new Set<number>();
    let size = 0;
    for (const one of this.#waiting) {
      const key = keyOf?.(one.item);
      const next = size + sizeOf(one.item);
      const fits = taken.length === 0 || (taken.length < maxItems && next <= maxSize);
      const isFree = key === undefined || !(this.#busy.has(key) || passedOver.has(key));
      if (fits && isFree) {
        taken.push(one);
        size = next;
        if (key !== undefined) this.#busy.add(key);
      } else {
        left.push(one);
        if (key !== undefined) passedOver.add(key);
      }
    }
    this.#waiting = left;
    return taken;
  }

  async #send(taken: readonly Waiting<T, R>[]): Promise<void> {
    const [first] = taken;
    if (first !== undefined && taken.length === 1) {
      await this.#runAlone(first);
    } else {
      const outcomes = await this.#how
        .together(taken.map(({ item }) => item))
        .catch((error: unknown) => taken.map((): Outcome<R> => ({ error })));
      taken.forEach((one, index) => {
        const outcome = outcomes[index] ?? 'alone';
        // Outside of the slot: one that waits long for a lock must not keep the others waiting.
        if (outcome === 'alone') void this.#runAlone(one);
        else this.#settle(one, outcome);
      });
    }
    this.#underWay -= 1;
    this.#plan();
  }

  async #runAlone(one: Waiting<T, R>): Promise<void> {
    try {
      this.#settle(one, { value: await this.#how.alone(one.item) });
    } catch (error) {
      this.#settle(one, { error });
    }
    this.#plan();
  }

  #settle(one: Waiting<T, R>, outcome: { value: R } | { error: unknown }): void {
    if (this.#how.keyOf !== undefined) this.#busy.delete(this.#how.keyOf(one.item));
    if ('error' in outcome) one.reject(outcome.error);
    else one.resolve(outcome.value);
  }
}
