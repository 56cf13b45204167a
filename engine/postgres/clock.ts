/**
 * `Clock` by the database: this process's monotonic clock plus an offset that is measured now and then.
 *
 * Guards that "due" means the same to every node, whatever their own clocks say; that `now` is never ahead of the
 * database's clock, however long an answer was on its way, so that nothing fires early (I11); and that it never
 * goes back: when the database's clock does, it stands still until time has caught up.
 */
import type { Clock } from '../ports.ts';
import type { Database } from './pool.ts';

/** Quartz drifts by up to 100 ppm: 3 ms in this time. */
const MEASURE_INTERVAL_MS = 30_000;
/** Each sample says how late it is at least; of several the one that says most counts. */
const SAMPLES = 5;
/** Longest delay that setTimeout takes. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

export interface DatabaseClock extends Clock {
  /** How far `now` may be behind the database's clock by the last measurement, ms; it is never ahead. */
  errorMs(): number;
  /** Measures again now. If it fails, the last offset stays. @throws SagaxError DATABASE_UNAVAILABLE */
  measure(): Promise<void>;
  /** Ends the measuring. */
  close(): void;
}

export interface ClockOptions {
  measureIntervalMs?: number;
  /** For tests. Default `performance.now`. */
  monotonic?: () => number;
}

/** @throws SagaxError DATABASE_UNAVAILABLE when the first measurement fails */
export async function openClock(db: Database, options: ClockOptions = {}): Promise<DatabaseClock> {
  const monotonic = options.monotonic ?? (() => performance.now());
  let offset_ms = 0;
  let error_ms = Infinity;
  let last_ms = -Infinity;

  const measure = async (): Promise<void> => {
    let best = { offset_ms: -Infinity, error_ms: Infinity };
    for (let sample = 0; sample < SAMPLES; sample++) {
      const sent_ms = monotonic();
      const [row] = await db.read<{ at: number }>({
        name: 'sagax-clock',
        text: 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS at',
      });
      const received_ms = monotonic();
      // The database looked at its clock before its answer came: it is at least that late by now.
      const offset_ms = (row?.at ?? NaN) - received_ms;
      if (offset_ms > best.offset_ms) best = { offset_ms, error_ms: received_ms - sent_ms };
    }
    if (best.error_ms !== Infinity) ({ offset_ms, error_ms } = best);
  };

  await measure();
  const timer = setInterval(() => {
    // A failed measurement costs a little drift; who needs the database finds out by itself.
    measure().catch(() => undefined);
  }, options.measureIntervalMs ?? MEASURE_INTERVAL_MS);
  timer.unref();

  return {
    now: () => {
      last_ms = Math.max(last_ms, Math.floor(monotonic() + offset_ms));
      return last_ms;
    },
    monotonic,
    sleep,
    errorMs: () => error_ms,
    measure,
    close: () => clearInterval(timer),
  };
}

/** Resolves true after `ms` of any size, or false at once when aborted. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<boolean> {
  for (let rest_ms = Math.max(0, ms); ; rest_ms -= MAX_TIMEOUT_MS) {
    if (!(await sleepOnce(Math.min(rest_ms, MAX_TIMEOUT_MS), signal))) return false;
    if (rest_ms <= MAX_TIMEOUT_MS) return true;
  }
}

function sleepOnce(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
  if (signal?.aborted === true) return Promise.resolve(false);
  return new Promise((resolve) => {
    const stop = (): void => {
      clearTimeout(timer);
      resolve(false);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve(true);
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}
