/**
 * The other processes of the bus, as ones that messages are sealed for and believed from.
 *
 * Guards that only who can write to the bus is believed: a sender's public key must stand in the row of a live member.
 * What a stranger sends is not opened; who he is, is asked at most once in a while.
 */
import type { BusLog } from './bus-log.ts';
import { BusSeals, open, senderOf, type Seal } from './bus-seals.ts';
import type { Database } from './pool.ts';

/** How often strangers are asked for. */
const ASK_MS = 1_000;
/** How many of them at once. */
const MAX_STRANGERS = 64;
/** How long a sender is believed before it is asked for again. */
const BELIEVED_MS = 60_000;

interface Sender {
  seal: Seal;
  until: number;
}

export class BusPeers {
  readonly #database: Database;
  readonly #log: BusLog;
  readonly #seals = new BusSeals();
  /** By public key, of those that messages are sealed for. */
  readonly #readers = new Map<string, Seal | null>();
  /** By public key. */
  readonly #senders = new Map<string, Sender>();
  readonly #strangers = new Set<string>();
  #asking: NodeJS.Timeout | null = null;
  #askedAt = Number.NEGATIVE_INFINITY;

  constructor(database: Database, log: BusLog) {
    this.#database = database;
    this.#log = log;
  }

  get publicKey(): string {
    return this.#seals.publicKey;
  }

  /** @returns null when nothing can be sealed for it */
  seal(publicKey: string, text: string): Buffer | null {
    let seal = this.#readers.get(publicKey);
    if (seal === undefined) {
      seal = this.#seals.with(publicKey);
      this.#readers.set(publicKey, seal);
    }
    return seal === null ? null : this.#seals.seal(seal, text);
  }

  /** Those that are left are known no longer. */
  keepReaders(publicKeys: ReadonlySet<string>): void {
    for (const known of this.#readers.keys()) {
      if (!publicKeys.has(known)) this.#readers.delete(known);
    }
  }

  /** @returns null when it is not to be believed, or not yet */
  open(sealed: Buffer): string | null {
    const publicKey = senderOf(sealed);
    if (publicKey === null) return null;
    const sender = this.#senders.get(publicKey);
    if (sender !== undefined && performance.now() < sender.until) return open(sender.seal, sealed);
    this.#askFor(publicKey);
    return null;
  }

  close(): void {
    clearTimeout(this.#asking ?? undefined);
    this.#strangers.clear();
  }

  #askFor(publicKey: string): void {
    if (this.#strangers.size < MAX_STRANGERS) this.#strangers.add(publicKey);
    const due_ms = Math.max(0, this.#askedAt + ASK_MS - performance.now());
    this.#asking ??= setTimeout(() => void this.#ask(), due_ms).unref();
  }

  async #ask(): Promise<void> {
    const now = (this.#askedAt = performance.now());
    const wanted = [...this.#strangers];
    this.#strangers.clear();
    for (const [publicKey, { until }] of this.#senders) {
      if (until < now) this.#senders.delete(publicKey);
    }
    try {
      const rows = await this.#database.read<{ public_key: string }>({
        name: 'bus-senders',
        text: `SELECT DISTINCT split_part(bell, ' ', 4) AS public_key FROM sagax.bus_members
                WHERE split_part(bell, ' ', 4) = ANY ($1::text[]) AND expires_at > clock_timestamp()`,
        values: [wanted],
      });
      for (const { public_key } of rows) {
        const seal = this.#seals.with(public_key);
        if (seal !== null) this.#senders.set(public_key, { seal, until: now + BELIEVED_MS });
      }
    } catch (err) {
      this.#log.debug({ err }, 'who sends messages could not be asked');
    } finally {
      this.#asking = null;
    }
  }
}
