/**
 * Starts of sagas that the log can't have yet, so that it need not be read for them.
 *
 * Guards that only what is sure is told: an id carries the time at which it was made, so one that was made after the
 * shard was taken was never written by an owner before us, and what we have started ourselves is known. Were an id's
 * clock ahead by more than is allowed for, the log would refuse the second start of its stream (I1), the shard would be
 * read anew, and the id would then be too old to be told of again.
 */
import { parseSnowflake } from '../core/ids.ts';

/** More than clocks of a log's databases may differ (10 s), and ids be ahead of theirs (5 s). */
const MAX_AHEAD_MS = 16_000;
/** Only starts that come this soon are told of: what was started by us is remembered no longer. */
const FRESH_MS = 10_000;

export class NewSagas {
  readonly #openedAt: number;
  /** Those that may still be taken for fresh ones. */
  #started = new Set<string>();
  #cleanedAt: number;

  /** @param openedAt ms by the shard's clock, when no other owner could write any more */
  constructor(openedAt: number) {
    this.#openedAt = openedAt;
    this.#cleanedAt = openedAt;
  }

  /** @param now by the shard's clock, as are all times here */
  isNew(sagaId: string, now: number): boolean {
    const { ms } = parseSnowflake(sagaId);
    const isOurs = ms > this.#openedAt + MAX_AHEAD_MS && ms <= now + MAX_AHEAD_MS;
    return isOurs && isFresh(ms, now) && !this.#started.has(sagaId);
  }

  /** A saga's first events are in the log. */
  started(sagaId: string, now: number): void {
    if (now - this.#cleanedAt > FRESH_MS) this.#clean(now);
    if (isFresh(parseSnowflake(sagaId).ms, now)) this.#started.add(sagaId);
  }

  #clean(now: number): void {
    this.#cleanedAt = now;
    const kept = [...this.#started].filter((sagaId) => isFresh(parseSnowflake(sagaId).ms, now));
    this.#started = new Set(kept);
  }
}

function isFresh(ms: number, now: number): boolean {
  return ms > now - FRESH_MS;
}
