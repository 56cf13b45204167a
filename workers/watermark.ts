/**
 * Which offset of a partition may be committed: the lowest one whose work is not done.
 *
 * Guards that no command is lost: commands end in any order, and a commit never passes an unfinished one.
 */
export class Watermark {
  /** Taken and not yet passed, in order; whoever takes keeps an eye on `span`. */
  readonly #taken: { offset: bigint; done: boolean }[] = [];
  #next: bigint | null = null;

  /** Offsets between the lowest unfinished one and the last one taken: what a crash would deliver again. */
  get span(): number {
    return this.#taken.length;
  }

  /** Offsets are taken in order. @returns what says that the offset's work is done. */
  take(offset: bigint): () => bigint | null {
    const item = { offset, done: false };
    this.#taken.push(item);
    return () => {
      item.done = true;
      return this.#advance();
    };
  }

  /** @returns the offset to commit, or null when it has not moved. */
  #advance(): bigint | null {
    let passed = 0;
    while (this.#taken[passed]?.done === true) passed += 1;
    const last = this.#taken.splice(0, passed).at(-1);
    if (last === undefined || (this.#next !== null && last.offset < this.#next)) return null;
    this.#next = last.offset + 1n;
    return this.#next;
  }
}
