/**
 * The loads that every system runs: throughput, compensation, latency one at a time, fixed rates.
 *
 * Guards that CPU time, memory and bytes are taken over the same sagas as the rate they stand beside.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Load } from './load.ts';
import {
  cpuByProcess,
  difference,
  machineCpuMs,
  rssByProcess,
  type ByProcess,
  type Stack,
} from './stack.ts';

export const SCENARIOS = ['throughput', 'compensated', 'latency', 'open-50', 'open-200'] as const;
export type Scenario = (typeof SCENARIOS)[number];

export interface Sizes {
  inFlight: number;
  /** Once, before the first scenario. */
  first_warmup_ms: number;
  /** Before each closed loop. */
  warmup_ms: number;
  window_ms: number;
  /** Sagas one after another. */
  single: number;
  open_s: number;
}

export interface Measured {
  per_s: number;
  p50_ms: number;
  p99_ms: number;
  max_ms: number;
  samples: number;
  /** Of the system's own processes, participants included, ms a saga. */
  cpu_ms: number | null;
  /** The same, its stores and the driver, by process. */
  cpu_ms_by: ByProcess;
  /** Cores that the machine spent on anything else meanwhile: near 0 on an idle machine. */
  foreign_cores: number;
  rss_bytes_by: ByProcess;
  /** Bytes a saga, by what they are; over all sagas of the load, warm-up included. */
  stored_bytes_by: ByProcess;
}

/** Beside the processes: all that the machine spent. */
const MACHINE = '*';

/**
 * Load before the first scenario, so that none pays for just-in-time compilation and empty caches. What runs on
 * V8 or on a JVM (all systems do, Kafka most of all) costs twice as much in its first half minute as later.
 */
export async function warmUp(stack: Stack, sizes: Sizes): Promise<void> {
  const { inFlight, first_warmup_ms } = sizes;
  await stack.driver.load(
    { kind: 'closed', work: 'order', inFlight, warmup_ms: first_warmup_ms, window_ms: 1_000 },
    () => undefined,
  );
}

/** What a machine does by itself counts as quiet, in cores; and how long one waits for it. */
const QUIET_CORES = 0.1;
const QUIET_LIMIT_MS = 60_000;
const LOOK_EVERY_MS = 1_000;

/** Resolves when what the load before left to do in the background (vacuum, compaction) is done, or after a minute. */
async function untilQuiet(): Promise<void> {
  const until = performance.now() + QUIET_LIMIT_MS;
  while (performance.now() < until) {
    const before_ms = machineCpuMs();
    await pause(LOOK_EVERY_MS);
    if (machineCpuMs() - before_ms < QUIET_CORES * LOOK_EVERY_MS) return;
  }
}

export async function measure(stack: Stack, scenario: Scenario, sizes: Sizes): Promise<Measured> {
  const load = loadOf(scenario, sizes);
  if (load.kind !== 'closed') await untilQuiet();
  const edges: { [edge: string]: ByProcess } = {};
  const storedBefore = await stack.stored();
  const result = await stack.driver.load(load, (edge) => {
    edges[edge] = { ...cpuByProcess(stack), [MACHINE]: machineCpuMs() };
  });
  if (result.ended === 0) throw new Error('No saga ended within the window; widen it.');
  const { [MACHINE]: machine_ms = NaN, ...spent } = difference(
    edges['end'] ?? {},
    edges['begin'] ?? {},
  );
  const ours_ms = Object.values(spent).reduce((sum, ms) => sum + ms, 0);
  const cpu = perSaga(spent, result.ended);
  const own = new Set(stack.own.map(({ role }) => role));
  const ownCpu = Object.entries(cpu).filter(([role]) => own.has(role));
  return {
    per_s: (result.ended * 1000) / result.elapsed_ms,
    p50_ms: result.latency.p50_ms,
    p99_ms: result.latency.p99_ms,
    max_ms: result.latency.max_ms,
    samples: result.latency.count,
    cpu_ms: ownCpu.length === 0 ? null : ownCpu.reduce((sum, [, ms]) => sum + ms, 0),
    cpu_ms_by: cpu,
    foreign_cores: Math.max(0, machine_ms - ours_ms) / result.elapsed_ms,
    rss_bytes_by: rssByProcess(stack),
    stored_bytes_by: perSaga(difference(await stack.stored(), storedBefore), result.total),
  };
}

/** For a line of progress. */
export function brief({ per_s, p50_ms, p99_ms, cpu_ms }: Measured): string {
  const cpu = cpu_ms === null ? '' : `, ${cpu_ms.toFixed(2)} ms CPU a saga`;
  return `${per_s.toFixed(0)}/s, p50 ${p50_ms.toFixed(1)} ms, p99 ${p99_ms.toFixed(1)} ms${cpu}`;
}

function loadOf(scenario: Scenario, sizes: Sizes): Load {
  const { inFlight, warmup_ms, window_ms, single, open_s } = sizes;
  switch (scenario) {
    case 'throughput':
      return { kind: 'closed', work: 'order', inFlight, warmup_ms, window_ms };
    case 'compensated':
      return { kind: 'closed', work: 'compensated', inFlight, warmup_ms, window_ms };
    case 'latency':
      return { kind: 'single', work: 'order', warmup: Math.ceil(single / 10), count: single };
    case 'open-50':
      return { kind: 'open', work: 'order', rate_per_s: 50, seconds: open_s };
    case 'open-200':
      return { kind: 'open', work: 'order', rate_per_s: 200, seconds: open_s };
  }
}

function perSaga(sums: ByProcess, sagas: number): ByProcess {
  return Object.fromEntries(Object.entries(sums).map(([what, value]) => [what, value / sagas]));
}
