/**
 * Which commands' handlers are trusted to need no way back: their work in a shared transaction has no savepoint.
 *
 * Guards that a savepoint, which costs as much as a small statement, is spared where it has long been of no use, and
 * that those who need one get it: without it, work that must be taken back costs the whole transaction, whose
 * commands then run one by one. Whoever has cost that must be of no use for twice as long before it is spared again.
 */

/** Successes in a row that earn trust. */
const FIRST_EARNED = 100;
const LONGEST_EARNED = 100_000;

interface Past {
  successes: number;
  earned: number;
}

export class Trust {
  /** By command; a worker has as many as it has handlers. */
  readonly #pasts = new Map<string, Past>();

  has(command: string): boolean {
    const past = this.#pasts.get(command);
    return past !== undefined && past.successes >= past.earned;
  }

  /** Its work was kept. */
  succeeded(command: string): void {
    this.#of(command).successes += 1;
  }

  /** Its work had to be taken back. */
  failed(command: string): void {
    const past = this.#of(command);
    if (this.has(command)) past.earned = Math.min(LONGEST_EARNED, past.earned * 2);
    past.successes = 0;
  }

  #of(command: string): Past {
    const past = this.#pasts.get(command) ?? { successes: 0, earned: FIRST_EARNED };
    this.#pasts.set(command, past);
    return past;
  }
}
