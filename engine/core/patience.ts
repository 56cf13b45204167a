/**
 * Whether a reader of a bus does well to wait a little before it reads on, so that messages come together.
 *
 * Guards both ends of the load. Messages that come one by one have somebody waiting for each: no pause. When a look
 * brings several, each costs less in company (a request, a transaction and a send for all of them), and without a
 * pause a busy reader would go on taking them in twos and threes, at several times the cost.
 */

/** Messages that a look brings on average, from which on waiting pays. */
const COMPANY = 1.5;
/** What the newest look counts in that average: the last dozen or two decide. */
const NEWEST_SHARE = 0.1;

/** How long a patient reader waits; a saga of seven messages meets it about seven times. */
export const PATIENCE_MS = 4;

export class Patience {
  #average = 1;

  /** @param messages that one look brought; none says nothing about company */
  found(messages: number): void {
    if (messages > 0) this.#average += NEWEST_SHARE * (messages - this.#average);
  }

  get pays(): boolean {
    return this.#average >= COMPANY;
  }
}
