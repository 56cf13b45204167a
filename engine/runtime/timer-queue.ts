/**
 * Wake-ups of one shard that fall due soon, earliest first: a binary heap.
 *
 * Guards nothing by itself: an entry is only a hint that a saga may have something due; `decide` looks
 * at the saga's own timers, so a stale or doubled entry does no harm (I11).
 */
export interface Wakeup {
  dueAt: number;
  sagaId: string;
}

export class TimerQueue {
  readonly #heap: Wakeup[] = [];

  get size(): number {
    return this.#heap.length;
  }

  peek(): Wakeup | undefined {
    return this.#heap[0];
  }

  push(wakeup: Wakeup): void {
    const heap = this.#heap;
    let index = heap.push(wakeup) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (this.#at(parent).dueAt <= wakeup.dueAt) break;
      heap[index] = this.#at(parent);
      index = parent;
    }
    heap[index] = wakeup;
  }

  pop(): Wakeup | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && this.#at(child + 1).dueAt < this.#at(child).dueAt) child += 1;
      if (this.#at(child).dueAt >= last.dueAt) break;
      heap[index] = this.#at(child);
      index = child;
    }
    heap[index] = last;
    return first;
  }

  #at(index: number): Wakeup {
    const wakeup = this.#heap[index];
    if (wakeup === undefined) throw new RangeError(`No wake-up at ${index}.`);
    return wakeup;
  }
}
