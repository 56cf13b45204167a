/**
 * Publishing on the Postgres bus: one statement for what was gathered while the one before it ran.
 *
 * Guards (I10) that a resolved call's messages are committed, with gapless offsets in the order given
 * per partition. Partitions are locked in the order of their ids, so publishers can't deadlock.
 */
import { SagaxError } from '../core/errors.ts';
import type { BusMessage } from '../ports.ts';
import { numbered, type Committed, type FirstOffset, type Said } from './bus-offsets.ts';
import { publishQuery } from './bus-statements.ts';
import type { BusTopics } from './bus-topics.ts';
import type { Database } from './pool.ts';

/** One statement's share of a gathering; a larger one holds its partitions' locks for too long. */
const MAX_STATEMENT_BYTES = 4_000_000;
const MAX_STATEMENT_MESSAGES = 5_000;
/** As on Kafka, so that what fits one bus fits the other. */
export const MAX_MESSAGE_BYTES = 950_000;
/** What can wait before callers are turned away: beyond it the database is too slow for the load. */
const MAX_WAITING_BYTES = 64_000_000;

interface Row extends Said {
  bytes: number;
}

interface Call {
  rows: Row[];
  bytes: number;
  settled: boolean;
  settle: (error: SagaxError | null) => void;
}

export class PostgresPublisher {
  readonly #database: Database;
  readonly #topics: BusTopics;
  readonly #timeoutMs: number;
  readonly #published: (messages: readonly Committed[]) => void;
  #waiting: Call[] = [];
  #waitingBytes = 0;
  #loop: Promise<void> | null = null;
  #closed = false;

  /** @param published called after each commit, for the readers of these messages */
  constructor(
    database: Database,
    topics: BusTopics,
    timeoutMs: number,
    published: (messages: readonly Committed[]) => void,
  ) {
    this.#database = database;
    this.#topics = topics;
    this.#timeoutMs = timeoutMs;
    this.#published = published;
  }

  async publish(messages: readonly BusMessage[]): Promise<void> {
    if (messages.length === 0) return;
    if (this.#closed) throw unavailable('this bus has been closed');
    const rows: Row[] = [];
    for (const message of messages) {
      const id = await this.#topics.id(message.topic, message.partition).catch(rethrow);
      const bytes = bytesOf(message);
      if (bytes > MAX_MESSAGE_BYTES) throw oversize(message, bytes);
      rows.push({ id, message, bytes });
    }
    const bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
    if (this.#waitingBytes > 0 && this.#waitingBytes + bytes > MAX_WAITING_BYTES) {
      throw unavailable(`${this.#waitingBytes} bytes are waiting to be written already`);
    }
    await new Promise<void>((resolve, reject) => {
      const call: Call = {
        rows,
        bytes,
        settled: false,
        settle: (error) => {
          if (call.settled) return;
          call.settled = true;
          clearTimeout(timer);
          if (error === null) resolve();
          else reject(error);
        },
      };
      const timer = setTimeout(() => {
        call.settle(unavailable(`no answer within ${this.#timeoutMs} ms`));
      }, this.#timeoutMs);
      this.#waiting.push(call);
      this.#waitingBytes += bytes;
      this.#loop ??= this.#run();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#loop;
  }

  async #run(): Promise<void> {
    // A microtask later, so that calls made in the same turn go out together.
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const gathered = this.#waiting;
      this.#waiting = [];
      const calls = gathered.filter((call) => !call.settled);
      const error = await this.#write(calls.flatMap((call) => call.rows));
      if (error === null || error.code === 'BUS_UNAVAILABLE' || calls.length === 1) {
        calls.forEach((call) => call.settle(error));
      } else {
        // One call's bad text must not fail its neighbours.
        for (const call of calls) call.settle(await this.#write(call.rows));
      }
      for (const call of gathered) this.#waitingBytes -= call.bytes;
    }
    this.#loop = null;
  }

  async #write(rows: readonly Row[]): Promise<SagaxError | null> {
    try {
      for (const part of split(rows)) {
        const { rows: firsts } = await this.#database.write<FirstOffset>(publishQuery(part));
        this.#published(numbered(part, firsts));
      }
      return null;
    } catch (error) {
      return toBusError(error);
    }
  }
}

/** What counts against the limits. */
export function bytesOf({ key, value }: BusMessage): number {
  return key.length + Buffer.byteLength(value);
}

function split(rows: readonly Row[]): Row[][] {
  const parts: Row[][] = [];
  let part: Row[] = [];
  let bytes = 0;
  for (const row of rows) {
    const full =
      part.length >= MAX_STATEMENT_MESSAGES ||
      (part.length > 0 && bytes + row.bytes > MAX_STATEMENT_BYTES);
    if (full) {
      parts.push(part);
      part = [];
      bytes = 0;
    }
    part.push(row);
    bytes += row.bytes;
  }
  if (part.length > 0) parts.push(part);
  return parts;
}

function oversize(message: BusMessage, bytes: number): SagaxError {
  return new SagaxError(
    'PAYLOAD_REFUSED',
    `A message of ${bytes} bytes for ${message.topic} is over the limit of ${MAX_MESSAGE_BYTES}. Keep ` +
      'large payloads elsewhere and send a reference (claim check).',
  );
}

function rethrow(error: unknown): never {
  throw toBusError(error);
}

/** What the port promises of any failure. A lost answer is BUS_UNAVAILABLE too: the messages may be there. */
export function toBusError(error: unknown): SagaxError {
  if (error instanceof SagaxError) {
    const passing = error.code === 'DATABASE_UNAVAILABLE' || error.code === 'COMMIT_UNKNOWN';
    return passing ? unavailable(error.message, error) : error;
  }
  const { code, message } = error as { code?: string; message: string };
  // 22021 and 22P05: U+0000, or a lone surrogate, which text in Postgres can't hold.
  if (code === '22021' || code === '22P05') {
    return new SagaxError(
      'PAYLOAD_REFUSED',
      `A message has characters that Postgres can't hold (${message}). Leave U+0000 out.`,
      { cause: error },
    );
  }
  return unavailable(message, error);
}

export function unavailable(what: string, cause?: unknown): SagaxError {
  return new SagaxError('BUS_UNAVAILABLE', `The Postgres bus can't be used: ${what}`, { cause });
}
