/**
 * Whether a log that grows makes the work dearer: two systems, one with few finished sagas in its log and one with
 * many, take turns under the same load.
 *
 * Guards that both are measured on the same machine in the same minutes, so that what changes between them is the
 * size of the log. The finished sagas are copied in by SQL (`fill.ts`), not run.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Figures } from './durability.ts';
import { fillLog } from './fill.ts';
import { listPlans, timeLists } from './lists.ts';
import { SagaxStack, type BusChoice } from './sagax-stack.ts';
import { cpuByProcess, machineCpuMs } from './stack.ts';
import { spreadOf } from './stats.ts';

export interface GrowthSizes {
  inFlight: number;
  warmup_ms: number;
  window_ms: number;
  growth_small: number;
  growth_large: number;
  growth_rounds: number;
}

const OVER_MS = 28 * 86_400_000;
const TAKEN_LIMIT_MS = 60_000;
const SIZES = ['small', 'large'] as const;
const SAMPLED = [
  'per_s',
  'p50_ms',
  'p99_ms',
  'cpu_ms',
  'foreign_cores',
  'list_p50_ms',
  'list_p99_ms',
] as const;

interface Grown {
  stack: SagaxStack;
  sagaIds: string[];
  fill_s: number;
  per_s: number[];
  p50_ms: number[];
  p99_ms: number[];
  /** Of the system and its stores, a saga: what a busy machine changes least. */
  cpu_ms: number[];
  /** What others used meanwhile: figures count as far as it is near 0. */
  foreign_cores: number[];
  list_p50_ms: number[];
  list_p99_ms: number[];
}

export async function growth(bus: BusChoice, sizes: GrowthSizes): Promise<Figures> {
  const grown: Grown[] = [];
  try {
    for (const size of SIZES) {
      const stack = await SagaxStack.start({ bus });
      // Closed whatever happens to the filling.
      const one = emptyGrown(stack);
      grown.push(one);
      await fill(one, size === 'small' ? sizes.growth_small : sizes.growth_large);
    }
    for (let round = 0; round < sizes.growth_rounds; round++) {
      for (const one of round % 2 === 0 ? grown : grown.toReversed()) await measure(one, sizes);
    }
    return await figures(grown);
  } finally {
    for (const { stack } of grown) await stack.stop();
  }
}

function emptyGrown(stack: SagaxStack): Grown {
  const samples = { per_s: [], p50_ms: [], p99_ms: [], cpu_ms: [], foreign_cores: [] };
  return { stack, sagaIds: [], fill_s: 0, list_p50_ms: [], list_p99_ms: [], ...samples };
}

async function fill(one: Grown, count: number): Promise<void> {
  const { stack } = one;
  await stack.driver.load({ kind: 'single', work: 'order', warmup: 0, count: 30 }, () => undefined);
  const { rows } = await stack.postgres.pool.query<{ saga_id: string }>(
    `SELECT saga_id FROM sagax.sagas WHERE status = 'completed' ORDER BY saga_id LIMIT 1`,
  );
  const begun = performance.now();
  const filling = { count, over_ms: OVER_MS, templateId: rows[0]?.saga_id ?? '' };
  one.sagaIds = await fillLog(stack.postgres.pool, filling);
  one.fill_s = (performance.now() - begun) / 1000;
  await untilTaken(stack);
}

/** The engine was fenced; it takes its shards back within a third of its lease. */
async function untilTaken(stack: SagaxStack): Promise<void> {
  const until = performance.now() + TAKEN_LIMIT_MS;
  for (;;) {
    const { rows } = await stack.postgres.pool.query(
      'SELECT FROM sagax.shards WHERE owner IS NULL LIMIT 1',
    );
    if (rows.length === 0) return;
    if (performance.now() > until) throw new Error('The engine did not take its shards back.');
    await pause(50);
  }
}

async function measure(one: Grown, sizes: GrowthSizes): Promise<void> {
  const { inFlight, warmup_ms, window_ms } = sizes;
  const load = { kind: 'closed', work: 'order', inFlight, warmup_ms, window_ms } as const;
  const spent: { ours_ms: number; driver_ms: number; machine_ms: number }[] = [];
  const { ended, elapsed_ms, latency } = await one.stack.driver.load(load, () => {
    const { driver = 0, ...system } = cpuByProcess(one.stack);
    const ours_ms = Object.values(system).reduce((sum, ms) => sum + ms, 0);
    spent.push({ ours_ms, driver_ms: driver, machine_ms: machineCpuMs() });
  });
  const [begin, end] = spent;
  const ours_ms = (end?.ours_ms ?? NaN) - (begin?.ours_ms ?? NaN);
  const driver_ms = (end?.driver_ms ?? NaN) - (begin?.driver_ms ?? NaN);
  const machine_ms = (end?.machine_ms ?? NaN) - (begin?.machine_ms ?? NaN);
  one.cpu_ms.push(ours_ms / ended);
  one.foreign_cores.push(Math.max(0, machine_ms - ours_ms - driver_ms) / elapsed_ms);
  one.per_s.push((ended * 1000) / elapsed_ms);
  one.p50_ms.push(latency.p50_ms);
  one.p99_ms.push(latency.p99_ms);
  const lists = await timeLists(one.stack.postgres.pool, one.sagaIds);
  one.list_p50_ms.push(lists.p50_ms);
  one.list_p99_ms.push(lists.p99_ms);
}

async function figures(grown: readonly Grown[]): Promise<Figures> {
  const all: Figures = {};
  for (const [index, size] of SIZES.entries()) {
    const one = grown[index];
    if (one === undefined) continue;
    const plans = [...(await listPlans(one.stack.postgres.pool, one.sagaIds)).values()];
    all[`${size}_sagas`] = one.sagaIds.length;
    all[`${size}_fill_s`] = one.fill_s;
    all[`${size}_log_bytes`] = (await one.stack.stored())['log'] ?? NaN;
    for (const name of SAMPLED) all[`${size}_${name}`] = spreadOf(one[name]).median;
    all[`${size}_list_seq_scans`] = plans.reduce((sum, { seqScans }) => sum + seqScans, 0);
    all[`${size}_list_most_rows_seen`] = Math.max(...plans.map(({ rows }) => rows));
  }
  all['throughput_change_percent'] = change(all['small_per_s'], all['large_per_s']);
  all['cpu_change_percent'] = change(all['small_cpu_ms'], all['large_cpu_ms']);
  all['p99_change_percent'] = change(all['small_p99_ms'], all['large_p99_ms']);
  return all;
}

function change(from = NaN, to = NaN): number {
  return (100 * (to - from)) / from;
}
