/**
 * Reads new messages for all lanes of this process: one query a round, whatever their number.
 *
 * Guards that an idle process is nearly silent (two rounds a second) and a busy one quick: a publish of
 * this process wakes the poller at once, and after traffic it looks every few milliseconds for a second. While
 * messages come one by one, somebody waits for each of them, and it looks again at once; when they come by the
 * dozen, a little patience makes batches.
 * A database that is away is asked again and again, slowly, until it is back.
 */
import type { ReceivedMessage } from '../ports.ts';
import type { BusLane } from './bus-lane.ts';
import type { Database } from './pool.ts';

/** After a round that found few messages, for as long as an answer to what was just sent may be expected. */
const EAGER_POLL_MS = 1;
const STAY_EAGER_MS = 20;
/** A round that finds as many has found a busy bus. */
const BUSY_MESSAGES = 16;
const FAST_POLL_MS = 5;
const IDLE_POLL_MS = 500;
/** How long after the last message the poller stays quick. */
const STAY_FAST_MS = 1_000;
const FAILED_POLL_MS = 500;
/** Lanes in one query, and bytes for each: together they bound what a round holds in memory. */
const MAX_LANES = 64;
const MAX_LANE_BYTES = 1_000_000;

const POLL_SQL = `
  SELECT w.lane, m."offset", m.key, m.headers, m.value
    FROM unnest($1::int[], $2::int[], $3::bigint[], $4::int[]) AS w (lane, id, from_offset, messages)
   CROSS JOIN LATERAL (
     SELECT l.*, sum(octet_length(l.value)) OVER (ORDER BY l."offset") - octet_length(l.value) AS before
       FROM (SELECT "offset", key, headers, value FROM sagax.bus_messages
              WHERE partition_id = w.id AND "offset" >= w.from_offset
              ORDER BY "offset" LIMIT w.messages) l
   ) m
   WHERE m.before IS NULL OR m.before < ${MAX_LANE_BYTES}
   ORDER BY w.lane, m."offset"`;

interface MessageRow {
  lane: number;
  offset: string;
  key: string | null;
  headers: string;
  value: string | null;
}

export class BusPoller {
  readonly #database: Database;
  readonly #lanes: () => BusLane[];
  readonly #failed: (error: unknown) => void;
  #closed = false;
  /** Set by a wake-up, so that one that comes while a query runs is not lost. */
  #woken = false;
  #endSleep: (() => void) | null = null;
  #lastTraffic = Number.NEGATIVE_INFINITY;
  #pauseMs = FAST_POLL_MS;
  /** Where the next round begins, when there are more lanes than fit one. */
  #turn = 0;
  #loop: Promise<void> | null = null;

  constructor(database: Database, lanes: () => BusLane[], failed: (error: unknown) => void) {
    this.#database = database;
    this.#lanes = lanes;
    this.#failed = failed;
  }

  /** Looks at once; starts the loop when it is not running yet. */
  wake(): void {
    this.#woken = true;
    this.#endSleep?.();
    if (!this.#closed) this.#loop ??= this.#run();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#endSleep?.();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      this.#woken = false;
      const wait_ms = await this.#round().catch((error: unknown) => {
        this.#failed(error);
        return FAILED_POLL_MS;
      });
      if (!this.#woken && !this.#closed) await this.#sleep(wait_ms);
    }
  }

  async #sleep(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#endSleep = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#endSleep = null;
  }

  /** @returns ms until the next round, if nobody wakes the poller before. */
  async #round(): Promise<number> {
    const wanting = this.#lanes().filter((lane) => lane.wanting);
    if (wanting.length === 0) return IDLE_POLL_MS;
    this.#turn %= wanting.length;
    const lanes = [...wanting.slice(this.#turn), ...wanting.slice(0, this.#turn)].slice(
      0,
      MAX_LANES,
    );
    this.#turn += lanes.length;
    const rows = await this.#database.read<MessageRow>({
      name: 'bus-poll',
      text: POLL_SQL,
      values: [
        lanes.map((_, index) => index),
        lanes.map(({ options }) => options.partitionId),
        lanes.map(({ next }) => next.toString()),
        lanes.map(({ options }) => options.maxBatch),
      ],
    });
    const byLane = Map.groupBy(rows, ({ lane }) => lane);
    lanes.forEach((lane, index) => {
      const found = byLane.get(index);
      if (found !== undefined) lane.deliver(found.map((row) => received(lane, row)));
    });
    if (lanes.length < wanting.length) return 0;
    return this.#nextPause(rows.length);
  }

  #nextPause(messages: number): number {
    const now = performance.now();
    if (messages > 0) this.#lastTraffic = now;
    const quiet_ms = now - this.#lastTraffic;
    if (quiet_ms < STAY_EAGER_MS && messages < BUSY_MESSAGES) return EAGER_POLL_MS;
    const quick = quiet_ms < STAY_FAST_MS;
    this.#pauseMs = quick ? FAST_POLL_MS : Math.min(this.#pauseMs * 2, IDLE_POLL_MS);
    return this.#pauseMs;
  }
}

function received({ options }: BusLane, row: MessageRow): ReceivedMessage {
  return {
    topic: options.topic,
    partition: options.partition,
    offset: BigInt(row.offset),
    key: row.key,
    headers: JSON.parse(row.headers) as { [name: string]: string },
    value: row.value,
  };
}
