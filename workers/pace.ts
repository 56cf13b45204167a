/**
 * How long the handlers of each command take, and a transaction around them, as far as it was seen.
 *
 * Guards that only quick handlers share a transaction: those in it run one after the other, and what they
 * have locked stays locked until all of them have ended. Quick is meant against the transaction's own cost,
 * which tells a slow handler from a quick one on a machine that is loaded, or far from its database.
 */
import type { Clock } from '../engine/ports.ts';

/** How many times as long as the transaction itself the handlers in it may take: its cost is then a fifth. */
const HANDLERS_SHARE = 4;
/** Handlers' time that is never too much for one transaction, in ms; nobody would notice it. */
const SMALL_MS = 10;
/** How long the handlers of a command run by themselves after one has held a batch up. */
const APART_MS = 10_000;

interface Seen {
  ms: number;
  apartUntil: number;
}

export class Pace {
  readonly #clock: Clock;
  /** By command; a worker has as many as it has handlers. */
  readonly #seen = new Map<string, Seen>();
  #transactionMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Handlers' time in one transaction, in ms: what a command may wait for others, and a row stay locked by them. */
  get budgetMs(): number {
    return Math.max(SMALL_MS, HANDLERS_SHARE * this.#transactionMs);
  }

  /** A batch took so long beside its handlers. */
  noteTransaction(ms: number): void {
    this.#transactionMs = this.#transactionMs === 0 ? ms : follow(this.#transactionMs, ms);
  }

  /** A handler took so long, whatever came of it. */
  note(command: string, ms: number): void {
    const seen = this.#seen.get(command);
    if (seen === undefined) this.#seen.set(command, { ms, apartUntil: -Infinity });
    else seen.ms = follow(seen.ms, ms);
  }

  /** One of its handlers was found to hold others up. */
  heldUp(command: string): void {
    const apartUntil = this.#clock.monotonic() + APART_MS;
    this.#seen.set(command, { ms: this.#seen.get(command)?.ms ?? 0, apartUntil });
  }

  /** Expected ms of a run; null: not known to be quick, so it runs by itself. */
  quick(command: string): number | null {
    const seen = this.#seen.get(command);
    // Two of them would be too much already.
    if (seen === undefined || 2 * seen.ms > this.budgetMs) return null;
    return seen.apartUntil > this.#clock.monotonic() ? null : seen.ms;
  }
}

/** Falls fast and rises slowly: it tells the time that something takes by itself, without the queueing behind others. */
function follow(known: number, ms: number): number {
  return known + (ms - known) * (ms < known ? 0.5 : 0.05);
}
