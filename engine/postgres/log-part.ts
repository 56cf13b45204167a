/**
 * One of several databases that a log is spread over: opened when it answers, asked by name, given up on in time.
 *
 * Guards that a database which is away, or hangs, takes only its own shards with it: who can do without it hears
 * so at once after the first failure, and it is looked for in the background until it answers again.
 */
import { SagaxError } from '../core/errors.ts';
import { sleep } from './clock.ts';
import type { PostgresPorts } from './index.ts';
import type { Place } from './membership.ts';

/** Longest that a caller who can do without waits: below what readiness probes and people bear. */
const PATIENCE_MS = 1_500;
/** How often one that is away is looked for. */
const PROBE_MS = 500;

export interface LogPartOptions {
  place: Place;
  url: string;
  /** Opens, checks and, when it is new, sets up the database. Called again until it succeeds. */
  open: () => Promise<PostgresPorts>;
  /** For a log line. */
  onTrouble: (what: string, error: unknown) => void;
}

export class LogPart {
  readonly place: Place;
  /** For messages: `log database 2 of 3 (db-2.internal:5432/sagax)`. */
  readonly label: string;
  readonly #options: LogPartOptions;
  readonly #stop = new AbortController();
  #ports: PostgresPorts | null = null;
  /** Why it does not answer; null while it does, as far as is known. */
  #away: Error | null = null;
  #probing: Promise<void> | null = null;

  constructor(options: LogPartOptions) {
    const { place, url } = options;
    this.#options = options;
    this.place = place;
    this.label = `log database ${place.index + 1} of ${place.count} (${whereabouts(url)})`;
  }

  get isOpen(): boolean {
    return this.#ports !== null;
  }

  /**
   * The first try. A database that is away is looked for from then on.
   * @throws SagaxError TOPOLOGY_MISMATCH, CONFIG_INVALID, SCHEMA_NEWER
   */
  async start(): Promise<void> {
    try {
      await this.#open();
    } catch (error) {
      if (!isAway(error)) throw this.#named(error);
      this.#lookFor(this.#named(error));
    }
  }

  /** @throws SagaxError DATABASE_UNAVAILABLE when it was never open */
  ports(): PostgresPorts {
    if (this.#ports !== null) return this.#ports;
    throw (
      this.#away ?? new SagaxError('DATABASE_UNAVAILABLE', `The ${this.label} is not open yet.`)
    );
  }

  /** For callers who need this database. Failures to reach it name it. */
  async ask<T>(call: (ports: PostgresPorts) => Promise<T>): Promise<T> {
    try {
      return await call(this.ports());
    } catch (error) {
      throw this.#named(error);
    }
  }

  /**
   * For callers who can do without: rejects at once while it is known to be away, else in PATIENCE_MS.
   * @throws SagaxError DATABASE_UNAVAILABLE; what `call` throws otherwise
   */
  async askInTime<T>(call: (ports: PostgresPorts) => Promise<T>): Promise<T> {
    if (this.#away !== null) throw this.#away;
    const done = new AbortController();
    try {
      return await Promise.race([call(this.ports()), noAnswerIn(PATIENCE_MS, done.signal)]);
    } catch (error) {
      const named = this.#named(error);
      if (isAway(error)) this.#lookFor(named);
      throw named;
    } finally {
      done.abort();
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#probing;
    await this.#ports?.close();
  }

  async #open(): Promise<void> {
    this.#ports = await this.#options.open();
  }

  #lookFor(why: Error): void {
    this.#away = why;
    if (this.#stop.signal.aborted) return;
    this.#probing ??= this.#probe(why).finally(() => {
      this.#probing = null;
    });
  }

  async #probe(first: Error): Promise<void> {
    const { onTrouble } = this.#options;
    onTrouble(`${this.label} does not answer`, first);
    while (await sleep(PROBE_MS, this.#stop.signal)) {
      try {
        if (this.#ports === null) await this.#open();
        else await this.#ports.reader.ping();
        this.#away = null;
        onTrouble(`${this.label} answers again`, null);
        return;
      } catch (error) {
        const named = this.#named(error);
        // One that answers but must not be used needs a person; its shards stand still until then.
        if (named.message !== this.#away?.message) onTrouble(`${this.label} can't be used`, named);
        this.#away = named;
      }
    }
  }

  /** The error itself, unless it is one of reaching or opening a database: then it says which. */
  #named(error: unknown): Error {
    if (error instanceof SagaxError && NAMED.has(error.code)) {
      if (error.message.includes(this.label)) return error;
      return new SagaxError(error.code, `The ${this.label}: ${error.message}`, { cause: error });
    }
    return error instanceof Error ? error : new Error(String(error));
  }
}

const NAMED: ReadonlySet<string> = new Set([
  'DATABASE_UNAVAILABLE',
  'TOPOLOGY_MISMATCH',
  'CONFIG_INVALID',
  'SCHEMA_NEWER',
]);

/** Rejects then; when aborted before, it resolves, to nobody. */
async function noAnswerIn(ms: number, signal: AbortSignal): Promise<never> {
  if (await sleep(ms, signal)) {
    throw new SagaxError('DATABASE_UNAVAILABLE', `No answer in ${ms} ms.`);
  }
  return undefined as never;
}

function isAway(error: unknown): boolean {
  return error instanceof SagaxError && error.code === 'DATABASE_UNAVAILABLE';
}

/** Host, port and database of a URL; never the password. */
function whereabouts(url: string): string {
  try {
    const { hostname, port, pathname } = new URL(url);
    return `${hostname}:${port === '' ? '5432' : port}${pathname}`;
  } catch {
    return 'URL that can not be read';
  }
}
