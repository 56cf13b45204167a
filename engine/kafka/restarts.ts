/**
 * Where a partition begins that comes back to the same consumer.
 *
 * Guards (I10) against the answer to a fetch of before. With several brokers kafkajs 2.2.4 joins the group again inside
 * one broker's fetcher, when its metadata is stale, while the others' fetches are under way: such an answer would
 * be taken for the new assignment's and move its offset, and what lies between the group's offset and that
 * answer would never be read. For a seek kafkajs drops it, so the start is named.
 */

/** A fetch has been answered and handed over by then; kafkajs's limit of one request is 8 s. */
const FETCH_LIMIT_MS = 30_000;

export class Restarts {
  /** Whether fetches may be under way. */
  #fetching = false;
  /** Partitions that went meanwhile: below which offset all is done, and when they went. */
  readonly #lost = new Map<string, { doneBelow: bigint; at: number }>();

  fetchBegins(): void {
    this.#fetching = true;
  }

  /** Where the group begins is for kafkajs to find out then. */
  fetchesEnded(): void {
    this.#fetching = false;
    this.#lost.clear();
  }

  /**
   * @param doneBelow null: nothing was taken from it, so that an answer of before is as good as one of after
   * @param logBegins where its log begins, when that is not where it did
   */
  lost(key: string, doneBelow: bigint | null, logBegins: bigint | null): void {
    if (doneBelow === null || !this.#fetching) return;
    const from = logBegins !== null && logBegins < doneBelow ? logBegins : doneBelow;
    this.#lost.set(key, { doneBelow: from, at: performance.now() });
  }

  /**
   * Called once for each opening. Others may have done more since; a reader has to bear what comes twice.
   * @returns null to begin where the group does
   */
  startOf(key: string): bigint | null {
    const lost = this.#lost.get(key);
    this.#lost.delete(key);
    return lost !== undefined && performance.now() - lost.at < FETCH_LIMIT_MS
      ? lost.doneBelow
      : null;
  }
}
