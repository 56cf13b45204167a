/**
 * What commands' handlers are trusted with in a shared transaction: that they need no way back, so that their work has
 * no savepoint, and that they make one statement at most, so that the next one is begun before they have ended.
 *
 * Guards that a savepoint or a way to the database and back, each dearer than a small statement, is spared where it
 * has long been of no use, and that those who need it get it: trust that was wrong costs the whole transaction, whose
 * commands then run one by one. Whoever has cost that must do without for twice as long before it is trusted again.
 */

/** Successes in a row that earn trust. */
const FIRST_EARNED = 100;
const LONGEST_EARNED = 100_000;

/** A row of runs that went well. */
class Streak {
  #length = 0;
  #earned = FIRST_EARNED;

  get isTrusted(): boolean {
    return this.#length >= this.#earned;
  }

  goOn(): void {
    this.#length += 1;
  }

  end(): void {
    if (this.isTrusted) this.#earned = Math.min(LONGEST_EARNED, this.#earned * 2);
    this.#length = 0;
  }
}

interface Past {
  /** Of work that was kept. */
  kept: Streak;
  /** Of work that was one statement at most. */
  single: Streak;
}

export class Trust {
  /** By command; a worker has as many as it has handlers. */
  readonly #pasts = new Map<string, Past>();

  has(command: string): boolean {
    return this.#pasts.get(command)?.kept.isTrusted ?? false;
  }

  /** Whether others may be begun before it has ended. */
  hasSingle(command: string): boolean {
    const past = this.#pasts.get(command);
    return past !== undefined && past.kept.isTrusted && past.single.isTrusted;
  }

  /** Its work was kept, and was so many statements. */
  succeeded(command: string, statements: number): void {
    this.#of(command).kept.goOn();
    if (statements <= 1) this.#of(command).single.goOn();
    else this.hadMore(command);
  }

  /** Its work had to be taken back. */
  failed(command: string): void {
    this.#of(command).kept.end();
  }

  /** It was more than one statement. */
  hadMore(command: string): void {
    this.#of(command).single.end();
  }

  #of(command: string): Past {
    const past = this.#pasts.get(command) ?? { kept: new Streak(), single: new Streak() };
    this.#pasts.set(command, past);
    return past;
  }
}
