/**
 * A saga's history as server-sent events: what is there from `after` on, then live, until it ended.
 *
 * Guards that a reader misses nothing and gets nothing twice: ids are stream versions, so a client that
 * was cut off goes on from its Last-Event-ID. A slow client is waited for (nothing is buffered beyond one
 * page), a client that goes frees everything at once. One whose key was revoked, or whose token ended, is cut off.
 */
import type { FastifyReply } from 'fastify';
import { TERMINAL_EVENTS } from '../engine/core/events.ts';
import type { Clock, SagaSummary } from '../engine/ports.ts';
import type { SagaReader } from '../engine/ports-read.ts';
import { historyView } from './views.ts';
import { hasEnded, type SagaWatch, type Waiter, type Watcher } from './watch.ts';

const PAGE = 200;
/** Kept for each stream while its client reads; thousands may stand still at once. */
const PAGE_BYTES = 500_000;
/** Pause after which a browser's EventSource connects again. */
const RECONNECT_MS = 1_000;

export interface FollowOptions {
  reply: FastifyReply;
  waiter: Waiter;
  reader: SagaReader;
  watch: SagaWatch;
  clock: Clock;
  heartbeatMs: number;
  /** Asked again and again while the stream lasts: whether the client may still have it. */
  mayGoOn: () => Promise<boolean>;
  summary: SagaSummary;
  /** Stream version of the last event that the client has. */
  after: number;
}

/**
 * Takes over the reply; returns when the stream is over.
 * @throws SagaxError OVERLOADED before anything was sent
 */
export async function followHistory(options: FollowOptions): Promise<void> {
  const { reply, watch, summary } = options;
  const { caller, gone } = options.waiter;
  if (gone.aborted) {
    // Nobody to follow for, and nothing would ever end the stream.
    void reply.send();
    return;
  }
  const news = new News(summary, caller);
  const over = AbortSignal.any([gone, news.closed]);
  const remove = watch.add(summary.namespace, summary.sagaId, news);
  try {
    const output = openStream(reply, over);
    await output.write(`retry: ${RECONNECT_MS}\n\n`);
    await copyEvents(options, news, output, over);
  } catch (error) {
    // The client comes back with its Last-Event-ID; nothing is lost by ending the stream here.
    if (!gone.aborted) reply.log.warn({ err: error }, 'An event stream was cut off.');
  } finally {
    remove();
    // One that is not read would never end; its client comes back, too.
    if (news.closed.aborted && reply.raw.writableNeedDrain) reply.raw.destroy();
    else reply.raw.end();
  }
}

async function copyEvents(
  { reader, clock, heartbeatMs, summary, after, mayGoOn }: FollowOptions,
  news: News,
  output: Output,
  over: AbortSignal,
): Promise<void> {
  let position = after;
  let admittedAt = clock.monotonic();
  while (!over.aborted) {
    if (clock.monotonic() - admittedAt >= heartbeatMs) {
      // Cut without a word: the client comes back, and is told why it may not.
      if (!(await mayGoOn())) return;
      admittedAt = clock.monotonic();
    }
    const wake = news.next();
    const events = await reader.history(summary.sagaId, position, PAGE, PAGE_BYTES);
    for (const logged of events) {
      const data = JSON.stringify(historyView(logged));
      await output.write(
        `id: ${logged.streamVersion}\nevent: ${logged.event.type}\ndata: ${data}\n\n`,
      );
      if (over.aborted) return;
      position = logged.streamVersion;
    }
    const ended =
      events.some(({ event }) => TERMINAL_EVENTS.has(event.type)) || news.endedAt(position);
    if (ended) return output.write('event: end\ndata: {}\n\n');
    // Read on while there is more; few events may be a page of large ones. When the summary is ahead of a log that
    // has nothing more, news will come.
    if (events.length > 0 && (events.length === PAGE || news.version > position)) continue;
    const silent = await clock.sleep(heartbeatMs, AbortSignal.any([wake, over]));
    if (silent && !over.aborted) await output.write(': heartbeat\n\n');
  }
}

/** What the shared poller has told so far, and a signal for what it tells next. */
class News implements Watcher {
  readonly caller: string;
  #newest: SagaSummary;
  #wake = new AbortController();
  readonly #closed = new AbortController();

  constructor(summary: SagaSummary, caller: string) {
    this.#newest = summary;
    this.caller = caller;
  }

  /** Aborted when the process is closing. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  get version(): number {
    return this.#newest.streamVersion;
  }

  /** Whether the saga has ended and a reader at `position` has seen all of it. */
  endedAt(position: number): boolean {
    return hasEnded(this.#newest) && position >= this.#newest.streamVersion;
  }

  /** Aborted at the next news. Taken before the history is read, so that news meanwhile are not missed. */
  next(): AbortSignal {
    this.#wake = new AbortController();
    return this.#wake.signal;
  }

  onSummary = (summary: SagaSummary): void => {
    if (summary.streamVersion <= this.#newest.streamVersion) return;
    this.#newest = summary;
    this.#wake.abort();
  };

  onClosed = (): void => this.#closed.abort();
}

interface Output {
  /** Resolves when the client can take more, or the stream is over. */
  write(text: string): Promise<void>;
}

function openStream(reply: FastifyReply, over: AbortSignal): Output {
  reply.hijack();
  const { raw } = reply;
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) raw.setHeader(name, value);
  }
  raw.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    // Proxies that buffer answers would hold events back.
    'x-accel-buffering': 'no',
  });
  return {
    write: async (text) => {
      if (over.aborted || raw.write(text)) return;
      await new Promise<void>((resolve) => {
        const done = (): void => {
          raw.off('drain', done);
          over.removeEventListener('abort', done);
          resolve();
        };
        raw.once('drain', done);
        over.addEventListener('abort', done, { once: true });
      });
    },
  };
}
