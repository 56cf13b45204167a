/**
 * The wake-ups of one shard: those that fall due soon, read from the log and noted as they are committed.
 *
 * Guards that no kept wake-up is forgotten (each one up to the horizon is queued here, each one behind it is
 * read when it is due), that a herd of them is read page by page as it is worked off, and that
 * memory stays bounded. An entry is only a hint: `decide` looks at the saga's own timers (I11).
 */
import type { Clock, EventLog } from '../ports.ts';
import type { Telemetry } from './telemetry.ts';
import { TimerQueue } from './timer-queue.ts';

/** How far ahead wake-ups are read from the log, and how often. */
const HORIZON_MS = 60_000;
const SCAN_MS = 30_000;
/** Sagas read at once ahead of their time: few, since reading them takes time from those that are due meanwhile. */
const AHEAD_LIMIT = 2_000;
/** Between reads ahead at the least, unless what was read falls due before. */
const AHEAD_REST_MS = 500;
/** Sagas read at once while whole pages of them are due already: many, since those under way are read again. */
const HERD_LIMIT = 10_000;
const SCAN_RETRY_MS = 250;
/** Sagas queued at most; what comes on top is read from the log when it is due. */
const QUEUE_LIMIT = 50_000;
/** How often the log is looked into for due ones while more sagas wait than may be queued. */
const CROWDED_SCAN_MS = 1_000;
/** Stale entries that are not worth a clean-up. */
const STALE_LIMIT = 1_000;
/** Due sagas that wait for a batch, above which nothing more is read: the log would give the same ones again. */
const DUE_LOW = 1_000;

export interface WakeUpsDeps {
  eventLog: EventLog;
  clock: Clock;
  telemetry: Telemetry;
}

export class WakeUps {
  readonly #deps: WakeUpsDeps;
  readonly #shard: number;
  readonly #onDue: () => void;
  readonly #stop = new AbortController();
  #queue = new TimerQueue();
  /** Per saga the time of its one valid entry in the queue; any other entry of it is stale. */
  readonly #queued = new Map<string, number>();
  /** Sagas that are due, in order, until a batch takes them. */
  readonly #due = new Set<string>();
  #horizonAt = -Infinity;
  #scanDueAt = -Infinity;
  /** A read of the log that is under way: what is due is taken meanwhile. */
  #scanning: Promise<void> | null = null;
  /** Sagas taken or noted since that read began: what it finds of them is old. */
  readonly #newer = new Set<string>();
  /** The last page read was due as a whole. */
  #isHerd = false;
  #sleep = new AbortController();

  /** @param onDue called when sagas have become due */
  constructor(deps: WakeUpsDeps, shard: number, onDue: () => void) {
    this.#deps = deps;
    this.#shard = shard;
    this.#onDue = onDue;
  }

  /** Sagas that are due and not taken. */
  get dueCount(): number {
    return this.#due.size;
  }

  /** Entries in memory, stale ones included. */
  get size(): number {
    return this.#queue.size + this.#due.size;
  }

  /** Takes due sagas for a batch, earliest first. */
  take(limit: number): string[] {
    const taken: string[] = [];
    for (const sagaId of this.#due) {
      if (taken.length >= limit) break;
      taken.push(sagaId);
    }
    const hadRoom = this.#hasRoom;
    for (const sagaId of taken) this.#due.delete(sagaId);
    if (!hadRoom && this.#hasRoom) this.#sleep.abort();
    return taken;
  }

  /** Due again: their batch was not written. */
  putBack(sagaIds: readonly string[]): void {
    for (const sagaId of sagaIds) this.#due.add(sagaId);
  }

  /** A wake-up was committed. @param dueAt ms since the epoch; null when the saga has none any more */
  note(sagaId: string, dueAt: number | null): void {
    if (this.#scanning !== null) this.#newer.add(sagaId);
    if (dueAt === null) {
      this.#queued.delete(sagaId);
      this.#dropStale();
      return;
    }
    if (dueAt > this.#horizonAt) return;
    const known = this.#queued.get(sagaId);
    if (known !== undefined && known <= dueAt) return;
    if (this.#queued.size >= QUEUE_LIMIT) {
      this.#horizonAt = dueAt - 1;
      this.#scanDueAt = Math.min(this.#scanDueAt, dueAt);
      this.#sleep.abort();
      return;
    }
    const isFirst = dueAt < (this.#queue.peek()?.dueAt ?? Infinity);
    this.#push(sagaId, dueAt);
    if (isFirst) this.#sleep.abort();
  }

  /** Reads and waits until `stop`. */
  async run(): Promise<void> {
    const { clock } = this.#deps;
    while (!this.#stop.signal.aborted) {
      // First: what was read and is due must not be read again.
      this.#takeDue(clock.now());
      if (this.#mayScan && clock.now() >= this.#scanDueAt) this.#startScan(clock.now());
      // The end of a scan, and room that `take` makes, wake it.
      const scanAt = this.#mayScan ? this.#scanDueAt : Infinity;
      const nextAt = Math.min(this.#queue.peek()?.dueAt ?? Infinity, scanAt);
      this.#sleep = new AbortController();
      if (this.#stop.signal.aborted) break;
      // The period is only a net below that.
      const rest_ms = Math.min(nextAt - clock.now(), SCAN_MS);
      await clock.sleep(Math.max(1, rest_ms), this.#sleep.signal);
    }
    await this.#scanning;
  }

  stop(): void {
    this.#stop.abort();
    this.#sleep.abort();
  }

  get #hasRoom(): boolean {
    return this.#due.size < DUE_LOW;
  }

  get #mayScan(): boolean {
    return this.#scanning === null && this.#hasRoom;
  }

  #startScan(now: number): void {
    this.#newer.clear();
    this.#scanning = this.#scan(now).then(() => {
      this.#scanning = null;
      this.#newer.clear();
      this.#sleep.abort();
    });
  }

  /** Most sagas end long before their timers are due: their entries must not outnumber the others. */
  #dropStale(): void {
    if (this.#queue.size < 2 * this.#queued.size + STALE_LIMIT) return;
    this.#queue = new TimerQueue();
    for (const [sagaId, dueAt] of this.#queued) this.#queue.push({ sagaId, dueAt });
  }

  #push(sagaId: string, dueAt: number): void {
    this.#queued.set(sagaId, dueAt);
    this.#queue.push({ sagaId, dueAt });
  }

  async #scan(now: number): Promise<void> {
    // Crowded, it only looks for what is due.
    const isCrowded = this.#queued.size >= QUEUE_LIMIT / 2;
    const until = isCrowded ? now : now + HORIZON_MS;
    // Set before the read: a wake-up that is committed meanwhile must be seen by one of the two.
    this.#horizonAt = until;
    this.#scanDueAt = now + (isCrowded ? CROWDED_SCAN_MS : SCAN_MS);
    const limit = this.#isHerd || isCrowded ? HERD_LIMIT : AHEAD_LIMIT;
    try {
      const due = await this.#deps.eventLog.dueWakeups(this.#shard, until, limit);
      const queuedBefore = this.#queued.size;
      for (const { sagaId, dueAt } of due) {
        if (this.#newer.has(sagaId) || this.#due.has(sagaId)) continue;
        const known = this.#queued.get(sagaId);
        if (known === undefined || known > dueAt) this.#push(sagaId, dueAt);
      }
      const last = due.at(-1);
      this.#isHerd = due.length === limit && last !== undefined && last.dueAt <= now;
      if (due.length < limit || last === undefined) return;
      this.#horizonAt = Math.min(this.#horizonAt, last.dueAt);
      // There are more: they are read while half of these are still to come. A page that brings nothing new is of
      // one moment, or all under way: the next is read when it is due and there is room.
      const middle = Math.max((now + last.dueAt) / 2, now + AHEAD_REST_MS);
      const isNew = this.#queued.size > queuedBefore;
      this.#scanDueAt = Math.min(
        this.#scanDueAt,
        isNew ? Math.min(middle, last.dueAt) : last.dueAt,
      );
    } catch (error) {
      this.#scanDueAt = now + SCAN_RETRY_MS;
      this.#deps.telemetry.log.warn(
        { shard: this.#shard, err: error },
        'due timers could not be read; it is tried again',
      );
    }
  }

  #takeDue(now: number): void {
    for (
      let first = this.#queue.peek();
      first !== undefined && first.dueAt <= now;
      first = this.#queue.peek()
    ) {
      this.#queue.pop();
      if (this.#queued.get(first.sagaId) !== first.dueAt) continue;
      if (this.#scanning !== null) this.#newer.add(first.sagaId);
      this.#queued.delete(first.sagaId);
      this.#deps.telemetry.observe('timer_lateness_seconds', Math.max(0, now - first.dueAt) / 1000);
      this.#due.add(first.sagaId);
    }
    if (this.#due.size > 0) this.#onDue();
  }
}
