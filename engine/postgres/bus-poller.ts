/**
 * Reads new messages for all lanes of this process: one query at a time, whatever their number.
 *
 * Guards that an idle process is nearly silent (three questions in two seconds) and a busy one quick. The server does the
 * looking (`sagax.bus_read`): each millisecond while messages are few, since somebody waits for each of them; with a
 * little patience when there are many, which makes batches; now and then when nothing has come for long. What this
 * process publishes to itself is handed to the lanes as it is, and so is what others tell (`bus-bells.ts`); what does not
 * follow what a lane has, and what others only ring for, is looked for at once: as long as all that is found was told or
 * rung for, one look a ring is all. A database that is away is asked again and again, slowly.
 */
import { Patience, PATIENCE_MS } from '../core/patience.ts';
import type { ReceivedMessage } from '../ports.ts';
import type { BusLane } from './bus-lane.ts';
import type { Committed } from './bus-offsets.ts';
import type { Database } from './pool.ts';

/** How the server looks: `looks` times, `pauseMs` apart, the first time after `firstMs`. */
interface Looks {
  firstMs: number;
  pauseMs: number;
  looks: number;
}

/** pg_sleep waits in whole ms, rounded up: asked for a whole one it waits for two, since by then a little more is left. */
const SHORTEST_MS = 0.5;
const ONCE: Looks = { firstMs: 0, pauseMs: 0, looks: 1 };
/** For as long as an answer to what was just sent may be expected. */
const EAGER: Looks = { firstMs: 0, pauseMs: SHORTEST_MS, looks: 20 };
/** On a busy bus. */
const PATIENT: Looks = { firstMs: PATIENCE_MS, pauseMs: PATIENCE_MS, looks: 5 };
/** While others ring: each time they do, and when they are silent. */
const RUNG: Looks = { firstMs: 0, pauseMs: 0, looks: 1 };
const SILENCE_MS = 20;
/** For a while after the last message. */
const QUICK: Looks = { firstMs: 5, pauseMs: 5, looks: 10 };
/** When nothing has come for long: whoever comes first waits for no longer than a pause. */
const IDLE: Looks = { firstMs: 0, pauseMs: 20, looks: 32 };
const STAY_EAGER_MS = 20;
const STAY_QUICK_MS = 1_000;
const TURN_PAUSE_MS = 1;
const IDLE_POLL_MIN_MS = 10;
const IDLE_POLL_MAX_MS = 500;
const FAILED_POLL_MS = 500;
/** Lanes in one query; a process with more of them asks in turns. */
const MAX_LANES = 1_024;
/** What a query may bring for all lanes and for one, but for one message each, however large. */
const MAX_BYTES = 64_000_000;
const MAX_LANE_BYTES = 1_000_000;

interface MessageRow {
  /** Which of those asked for, from 1 on. */
  lane: string;
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
  /** Whether the server is looking by itself, so that only a second query could look sooner. */
  #serverLooks = false;
  /** Whether such a second query is under way. */
  #besides = false;
  /** Set while the server looks now and then only: ends the wait for it, since there is traffic again or one lane more. */
  #endIdle: (() => void) | null = null;
  /** The lanes that such a question is about. */
  #idleLanes: readonly BusLane[] = [];
  /** Such questions that are under way though nobody waits for them. */
  #left = 0;
  /** Whether what was found last had been rung for. */
  #rings = false;
  #lastTraffic = Number.NEGATIVE_INFINITY;
  readonly #patience = new Patience();
  #idleMs = IDLE_POLL_MIN_MS;
  /** Where the next round begins, when there are more lanes than fit one. */
  #turn = 0;
  #loop: Promise<void> | null = null;

  constructor(database: Database, lanes: () => BusLane[], failed: (error: unknown) => void) {
    this.#database = database;
    this.#lanes = lanes;
    this.#failed = failed;
  }

  /** Looks at once. Starts the loop when it is not running yet. */
  wake(): void {
    this.#woken = true;
    this.#endSleep?.();
    if (this.#closed) return;
    if (this.#serverLooks && !this.#askAnew()) void this.#lookBeside();
    this.#loop ??= this.#run();
  }

  /** A part of this process has committed these. */
  published(messages: readonly Committed[]): void {
    if (this.#take(messages).missed) this.wake();
  }

  /** Another process has committed these for this one. */
  told(messages: readonly Committed[]): void {
    const { taken, missed } = this.#take(messages);
    if (taken) this.#rings = true;
    if (missed) this.rung();
  }

  /** Another process has committed messages for this one. */
  rung(): void {
    // With so many coming it is better to let a few come together.
    if (this.#patience.pays(performance.now(), this.#rings)) return;
    this.#rings = true;
    this.wake();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#endSleep?.();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      const isTold = this.#woken;
      this.#woken = false;
      const wait_ms = await this.#round(isTold).catch((error: unknown) => {
        this.#failed(error);
        return FAILED_POLL_MS;
      });
      if (wait_ms > 0 && !this.#woken && !this.#closed) await this.#sleep(wait_ms);
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

  /**
   * @param isTold whether somebody has said that there is something
   * @returns ms until the next round, if nobody wakes the poller before.
   */
  async #round(isTold: boolean): Promise<number> {
    const { lanes, all } = this.#nextLanes();
    if (lanes.length === 0) return IDLE_POLL_MAX_MS;
    // When not all fit, none may keep the others waiting.
    const looks = all ? this.#howToLook() : ONCE;
    this.#serverLooks = looks.looks > 1;
    const reading = this.#read(lanes, looks);
    const found = await (looks === IDLE ? this.#orTraffic(reading, lanes) : reading).finally(() => {
      this.#serverLooks = false;
    });
    const now = this.#note(found);
    if (looks === RUNG) {
      if (found > 0 && !isTold) this.#rings = false;
      return this.#rings ? SILENCE_MS : 0;
    }
    // The server has waited already; in turns it was not to.
    if (all) return 0;
    if (now - this.#lastTraffic < STAY_QUICK_MS) return found > 0 ? 0 : TURN_PAUSE_MS;
    this.#idleMs = Math.min(this.#idleMs * 2, IDLE_POLL_MAX_MS);
    return this.#idleMs;
  }

  /** What it brings, or 0 at once when there is traffic again: then it ends by itself, at the latest with its last look. */
  #orTraffic(reading: Promise<number>, lanes: readonly BusLane[]): Promise<number> {
    this.#idleLanes = lanes;
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.#endIdle = null;
        this.#left += 1;
        resolve(0);
      };
      this.#endIdle = end;
      void reading.then(resolve, reject).finally(() => {
        if (this.#endIdle === end) this.#endIdle = null;
        else this.#left -= 1;
        // One that opened when it could not be asked for.
        this.#askAnew();
      });
    });
  }

  /**
   * A lane that opens, or has room again, while the server looks now and then only is not in its question.
   * @returns whether all are asked for anew, at once
   */
  #askAnew(): boolean {
    // One question that nobody waits for is enough: each has a connection.
    if (this.#endIdle === null || this.#left > 0) return false;
    const asked = new Set(this.#idleLanes);
    if (this.#lanes().every((lane) => lane.room === 0 || asked.has(lane))) return false;
    this.#endIdle();
    return true;
  }

  /**
   * Gives the lanes what is theirs, as if it had been read.
   * @returns whether anything was, and whether a lane has something to read nevertheless
   */
  #take(messages: readonly Committed[]): { taken: boolean; missed: boolean } {
    const byPartition = Map.groupBy(messages, ({ id }) => id);
    let taken = 0;
    let missed = false;
    for (const lane of this.#lanes()) {
      for (const message of byPartition.get(lane.options.partitionId) ?? []) {
        if (lane.take(message)) taken += 1;
        else missed = true;
      }
    }
    if (taken > 0) {
      this.#note(taken);
      this.#endIdle?.();
    }
    return { taken: taken > 0, missed };
  }

  /** @returns now, in ms */
  #note(found: number): number {
    const now = performance.now();
    this.#patience.found(found, now);
    if (found > 0) {
      this.#lastTraffic = now;
      this.#idleMs = IDLE_POLL_MIN_MS;
    }
    return now;
  }

  /** Those with room, in turn when there are many. */
  #nextLanes(): { lanes: BusLane[]; all: boolean } {
    const open = this.#lanes().filter(({ room }) => room > 0);
    this.#turn %= Math.max(1, open.length);
    const lanes = [...open.slice(this.#turn), ...open.slice(0, this.#turn)].slice(0, MAX_LANES);
    this.#turn += lanes.length;
    return { lanes, all: lanes.length === open.length };
  }

  #howToLook(): Looks {
    const now = performance.now();
    const quiet_ms = now - this.#lastTraffic;
    if (quiet_ms >= STAY_QUICK_MS) return IDLE;
    if (this.#patience.pays(now, this.#rings)) return PATIENT;
    if (this.#rings) return RUNG;
    return quiet_ms >= STAY_EAGER_MS ? QUICK : EAGER;
  }

  /** One more look, while the one of the loop waits in the server; what fails is said by the loop. */
  async #lookBeside(): Promise<void> {
    if (this.#besides) return;
    this.#besides = true;
    const { lanes } = this.#nextLanes();
    const found = lanes.length > 0 ? await this.#read(lanes, ONCE).catch(() => 0) : 0;
    this.#besides = false;
    if (found === 0) return;
    this.#note(found);
    this.#endIdle?.();
  }

  /** @returns messages found */
  async #read(lanes: readonly BusLane[], { firstMs, pauseMs, looks }: Looks): Promise<number> {
    const froms = lanes.map(({ next }) => next);
    const rows = await this.#database.read<MessageRow>({
      name: 'bus-read',
      text: 'SELECT * FROM sagax.bus_read($1, $2, $3, $4, $5, $6, $7)',
      values: [
        lanes.map(({ options }) => options.partitionId),
        froms.map(String),
        lanes.map(({ room }) => room),
        Math.min(MAX_LANE_BYTES, Math.ceil(MAX_BYTES / lanes.length)),
        firstMs,
        pauseMs,
        looks,
      ],
    });
    const byLane = Map.groupBy(rows, ({ lane }) => Number(lane));
    lanes.forEach((lane, index) => {
      const found = byLane.get(index + 1);
      if (found === undefined) return;
      lane.deliver(
        froms[index] as bigint,
        found.map((row) => received(lane, row)),
      );
    });
    return rows.length;
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
