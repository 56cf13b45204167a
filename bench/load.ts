/**
 * What the driver is asked to do and what it answers; and the loops that do it, on any system.
 *
 * Guards the honesty of latencies: in the open loop each one counts from the instant at which the saga
 * was meant to start, so a system that stalls can't hide it (no coordinated omission). An outcome that is
 * not the expected one ends the run.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { latencyOf, type Latency } from './stats.ts';
import type { End, Watch } from './watcher.ts';

export type Work = 'order' | 'compensated';

export type Load =
  /** As many in flight as given, each that ends is followed by the next; only the window is measured. */
  | { kind: 'closed'; work: Work; inFlight: number; warmup_ms: number; window_ms: number }
  /** `count` one after another. */
  | { kind: 'single'; work: Work; warmup: number; count: number }
  /** Starts at a fixed rate, whatever becomes of them. */
  | { kind: 'open'; work: Work; rate_per_s: number; seconds: number };

export interface LoadResult {
  /** Sagas that ended within the window (closed), or all that were measured. */
  ended: number;
  /** All that ended, those outside of the window too. */
  total: number;
  elapsed_ms: number;
  latency: Latency;
}

/** A system as the driver sees it. */
export interface Target {
  /** Starts a saga; resolves with how it ended, once that can be seen. */
  run(work: Work): Promise<End>;
  /** How ends are watched: `exact` for lone latencies, `near` at a rate, `cheap` for throughput, `many` for more than a thousand. */
  watch(how: Watch): void;
  close(): Promise<void>;
}

/** Told at the window's edges, so that CPU time can be read there. */
export type OnWindow = (edge: 'begin' | 'end') => void;

/** More than this many unfinished in the open loop: the rate is beyond the system, and the run ends. */
const OPEN_LIMIT = 20_000;

const WATCH: { readonly [kind in Load['kind']]: Watch } = {
  closed: 'cheap',
  single: 'exact',
  open: 'near',
};

export function runLoad(target: Target, load: Load, onWindow: OnWindow): Promise<LoadResult> {
  target.watch(WATCH[load.kind]);
  switch (load.kind) {
    case 'closed':
      return closedLoop(target, load, onWindow);
    case 'single':
      return oneAtATime(target, load, onWindow);
    case 'open':
      return openLoop(target, load, onWindow);
  }
}

async function runOne(target: Target, work: Work, from_ms: number): Promise<number> {
  const outcome = await target.run(work);
  const expected = work === 'order' ? 'completed' : 'compensated';
  if (outcome !== expected) throw new Error(`A saga ended as ${outcome}, not as ${expected}.`);
  return performance.now() - from_ms;
}

async function closedLoop(
  target: Target,
  load: Load & { kind: 'closed' },
  onWindow: OnWindow,
): Promise<LoadResult> {
  const latencies: number[] = [];
  let total = 0;
  const state: { phase: 'warmup' | 'window' | 'over' } = { phase: 'warmup' };
  const lane = async (): Promise<void> => {
    while (state.phase !== 'over') {
      const took_ms = await runOne(target, load.work, performance.now());
      total += 1;
      if (state.phase === 'window') latencies.push(took_ms);
    }
  };
  const lanes = Promise.all(Array.from({ length: load.inFlight }, lane));
  const stay = (ms: number): Promise<unknown> => Promise.race([pause(ms), lanes]);
  await stay(load.warmup_ms);
  const begun = performance.now();
  state.phase = 'window';
  onWindow('begin');
  await stay(load.window_ms);
  state.phase = 'over';
  const elapsed_ms = performance.now() - begun;
  onWindow('end');
  const measured = latencies.slice();
  await lanes;
  return { ended: measured.length, total, elapsed_ms, latency: latencyOf(measured) };
}

async function oneAtATime(
  target: Target,
  load: Load & { kind: 'single' },
  onWindow: OnWindow,
): Promise<LoadResult> {
  for (let n = 0; n < load.warmup; n++) await runOne(target, load.work, performance.now());
  const latencies: number[] = [];
  const begun = performance.now();
  onWindow('begin');
  for (let n = 0; n < load.count; n++) {
    latencies.push(await runOne(target, load.work, performance.now()));
  }
  onWindow('end');
  return {
    ended: latencies.length,
    total: load.warmup + latencies.length,
    elapsed_ms: performance.now() - begun,
    latency: latencyOf(latencies),
  };
}

async function openLoop(
  target: Target,
  load: Load & { kind: 'open' },
  onWindow: OnWindow,
): Promise<LoadResult> {
  const total = load.rate_per_s * load.seconds;
  const latencies: number[] = [];
  const all: Promise<void>[] = [];
  const failures: Error[] = [];
  const begun = performance.now();
  onWindow('begin');
  for (let n = 0; n < total; n++) {
    const meant_ms = begun + (n * 1000) / load.rate_per_s;
    // Timers may fire a little early, and a start before its instant would look too quick.
    for (;;) {
      const early_ms = meant_ms - performance.now();
      if (early_ms <= 0) break;
      await pause(early_ms);
    }
    if (failures[0] !== undefined) throw failures[0];
    if (n - latencies.length > OPEN_LIMIT) {
      throw new Error(`${load.rate_per_s}/s is too much: ${OPEN_LIMIT} sagas are unfinished.`);
    }
    all.push(
      runOne(target, load.work, meant_ms).then(
        (took_ms) => void latencies.push(took_ms),
        (error: unknown) => void failures.push(error as Error),
      ),
    );
  }
  await Promise.all(all);
  onWindow('end');
  if (failures[0] !== undefined) throw failures[0];
  return {
    ended: total,
    total,
    elapsed_ms: performance.now() - begun,
    latency: latencyOf(latencies),
  };
}
