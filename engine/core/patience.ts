/**
 * Whether a reader of a bus does well to wait a little before it reads on, so that messages come together.
 *
 * Guards both ends of the load. Where messages are few, somebody waits for each: no pause. Where a pause brings
 * several, each costs less in company (a request, a transaction and a send for all of them). It goes by how many come
 * in a time, not by how many a look brings: a reader that never pauses finds them one by one, however many come.
 */

/** How long a patient reader waits; a saga of seven messages meets it about seven times. */
export const PATIENCE_MS = 4;
/** Messages that must be expected within a pause, of a reader who has to look for each. */
const COMPANY = 1.5;
/** The same for one who is told: without a look, company spares it less. */
const TOLD_COMPANY = 2;
/** How far back the rate looks: what came this long ago counts a third of what comes now. */
const MEMORY_MS = 100;

export class Patience {
  /** Messages a ms, as of the last time. */
  #rate = 0;
  #at = 0;

  /** @param now ms on any clock that doesn't go back, the same one at each call */
  found(messages: number, now: number): void {
    this.#rate = this.#rateAt(now) + messages / MEMORY_MS;
    this.#at = now;
  }

  /** @param isTold whether the reader gets what it reads without looking for it */
  pays(now: number, isTold = false): boolean {
    return this.#rateAt(now) * PATIENCE_MS >= (isTold ? TOLD_COMPANY : COMPANY);
  }

  #rateAt(now: number): number {
    return this.#rate * Math.exp((this.#at - now) / MEMORY_MS);
  }
}
