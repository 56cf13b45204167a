/**
 * What only shows with time or misfortune, on Sagax alone: timers, recovery, sleeping sagas, idle cost, REST, growth of
 * the log and of memory.
 *
 * Guards that each starts on a system of its own, so that none measures what another left behind.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { growth, type GrowthSizes } from './growth.ts';
import { SagaxStack, type BusChoice } from './sagax-stack.ts';
import { soak, type SoakSizes } from './soak.ts';
import { cpuByProcess, difference, rssByProcess } from './stack.ts';
import { latencyOf } from './stats.ts';

export const DURABILITY = [
  'timers',
  'recovery',
  'sleeping',
  'idle',
  'rest',
  'soak',
  'growth',
] as const;
export type DurabilityScenario = (typeof DURABILITY)[number];

/** They take many minutes: they run only when they are named, and once. */
export const LONG: ReadonlySet<DurabilityScenario> = new Set(['soak', 'growth']);

export interface DurabilitySizes extends GrowthSizes, SoakSizes {
  timers: number;
  timers_spread_ms: number;
  /** Live sagas on the shards of the engine that is killed. */
  recovering: number;
  sleeping: number;
  idle_s: number;
  rest_s: number;
}

export interface Figures {
  [what: string]: number;
}

/** Starts a second that sagas are taken in at, at the least; timers are set so far ahead that all are asleep before. */
const START_RATE_PER_S = 2_000;
const FAR_AHEAD_MS = 86_400_000;
const REST_LANES = 64;
const REST_BATCH = 50;
/** Time for caches, vacuum and the garbage collector to settle before memory and idle cost are read. */
const SETTLE_MS = 10_000;
/** A node that has become quiet collects once, and V8 then unmaps what is free, some ten seconds later. */
const SLEEPING_SETTLE_MS = 20_000;
const POLL_MS = 10;
const TAKEOVER_LIMIT_MS = 120_000;

export function runDurability(
  scenario: DurabilityScenario,
  bus: BusChoice,
  sizes: DurabilitySizes,
): Promise<Figures> {
  switch (scenario) {
    case 'timers':
      return timers(bus, sizes);
    case 'recovery':
      return recovery(bus, sizes);
    case 'sleeping':
      return sleeping(bus, sizes);
    case 'idle':
      return idle(bus, sizes);
    case 'rest':
      return rest(bus, sizes);
    case 'soak':
      return soak(bus, sizes);
    case 'growth':
      return growth(bus, sizes);
  }
}

async function withStack<T>(
  options: Parameters<typeof SagaxStack.start>[0],
  work: (stack: SagaxStack) => Promise<T>,
): Promise<T> {
  const stack = await SagaxStack.start(options);
  try {
    return await work(stack);
  } finally {
    await stack.stop();
  }
}

/** Lateness from the due time in the log to the moment at which the end could be read. */
function timers(bus: BusChoice, sizes: DurabilitySizes): Promise<Figures> {
  return withStack({ bus, worker: false }, async (stack) => {
    const count = sizes.timers;
    const first_due_at_ms = Date.now() + (count * 1000) / START_RATE_PER_S + 2_000;
    const begun = cpuByProcess(stack);
    const { elapsed_ms } = await stack.driver.sleep({
      count,
      first_due_at_ms,
      spread_ms: sizes.timers_spread_ms,
    });
    const late_start_ms = Date.now() - first_due_at_ms;
    const ends = await stack.driver.awaitAll(null);
    const cpu = difference(cpuByProcess(stack), begun);
    const { rows } = await stack.postgres.pool.query<{ saga_id: string; due_at_ms: number }>(
      `SELECT saga_id, (event->>'dueAt')::float8 AS due_at_ms FROM sagax.events WHERE type = 'TimerSet'`,
    );
    const dueOf = new Map(rows.map(({ saga_id, due_at_ms }) => [saga_id, due_at_ms]));
    const lateness = ends.map(([sagaId, ended_at_ms]) => ended_at_ms - (dueOf.get(sagaId) ?? NaN));
    const { p50_ms, p99_ms, max_ms } = latencyOf(lateness);
    return {
      timers: count,
      due_per_s: (count * 1000) / sizes.timers_spread_ms,
      start_per_s: (count * 1000) / elapsed_ms,
      started_after_first_due_ms: Math.max(0, late_start_ms),
      lateness_p50_ms: p50_ms,
      lateness_p99_ms: p99_ms,
      lateness_max_ms: max_ms,
      early: lateness.filter((ms) => ms < 0).length,
      engine_cpu_ms_per_saga: (cpu['engine'] ?? NaN) / count,
    };
  });
}

/** Two engines; one is killed while its shards hold sleeping sagas, and at once all of these are woken. */
function recovery(bus: BusChoice, sizes: DurabilitySizes): Promise<Figures> {
  return withStack({ bus, engines: 2, worker: false }, async (stack) => {
    const { pool } = stack.postgres;
    const owners = await bothHoldShards(stack);
    await stack.driver.sleep({
      count: sizes.recovering * 2,
      first_due_at_ms: Date.now() + FAR_AHEAD_MS,
      spread_ms: 1,
    });
    await settled(stack, sizes.recovering * 2);
    const victim = stack.own[0];
    const owner = owners.find((name) => name.includes(`#${victim?.pid}-`));
    if (victim === undefined || owner === undefined) throw new Error('No engine to kill.');
    const { rows } = await pool.query<{ saga_id: string }>(
      `SELECT DISTINCT e.saga_id FROM sagax.events e JOIN sagax.shards s ON s.shard = e.shard WHERE s.owner = $1`,
      [owner],
    );
    const sagaIds = rows.map(({ saga_id }) => saga_id);
    const killed_at_ms = performance.timeOrigin + performance.now();
    await victim.kill();
    const woken = stack.driver.go(sagaIds).then(() => stack.driver.awaitAll(sagaIds));
    const takeover_ms = (await untilTakenOver(stack, owner)) - killed_at_ms;
    const ends = (await woken).map(([, ended_at_ms]) => ended_at_ms - killed_at_ms);
    const { p50_ms, max_ms } = latencyOf(ends);
    return {
      live_sagas: sagaIds.length,
      takeover_ms,
      first_goes_on_ms: Math.min(...ends),
      half_go_on_ms: p50_ms,
      all_go_on_ms: max_ms,
    };
  });
}

async function bothHoldShards(stack: SagaxStack): Promise<string[]> {
  return poll('both engines hold shards', async () => {
    const { rows } = await stack.postgres.pool.query<{ owner: string | null; n: number }>(
      'SELECT owner, count(*)::int AS n FROM sagax.shards GROUP BY owner',
    );
    const even = rows.length === 2 && Math.abs((rows[0]?.n ?? 0) - (rows[1]?.n ?? 0)) <= 1;
    return even ? rows.flatMap(({ owner }) => (owner === null ? [] : [owner])) : null;
  });
}

async function untilTakenOver(stack: SagaxStack, owner: string): Promise<number> {
  await poll('the shards are taken over', async () => {
    const { rows } = await stack.postgres.pool.query(
      'SELECT 1 FROM sagax.shards WHERE owner = $1 LIMIT 1',
      [owner],
    );
    return rows.length === 0 ? true : null;
  });
  return performance.timeOrigin + performance.now();
}

/** Resolves when `count` sagas are in the log. */
async function settled(stack: SagaxStack, count: number): Promise<void> {
  await poll(`${count} sagas sleep`, async () => {
    const { rows } = await stack.postgres.pool.query<{ n: number }>(
      'SELECT count(*)::int AS n FROM sagax.wakeups',
    );
    return rows[0]?.n === count ? true : null;
  });
}

async function poll<T>(what: string, look: () => Promise<T | null>): Promise<T> {
  const until = performance.now() + TAKEOVER_LIMIT_MS;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (performance.now() > until) {
      throw new Error(`${what}: not so within ${TAKEOVER_LIMIT_MS} ms.`);
    }
    await pause(POLL_MS);
  }
}

/** Memory of an engine that has many sleeping sagas, on the default size of its cache. */
function sleeping(bus: BusChoice, sizes: DurabilitySizes): Promise<Figures> {
  return withStack({ bus, worker: false }, async (stack) => {
    const before = rssByProcess(stack)['engine'] ?? NaN;
    const bytesBefore = await stack.stored();
    const { elapsed_ms } = await stack.driver.sleep({
      count: sizes.sleeping,
      first_due_at_ms: Date.now() + FAR_AHEAD_MS,
      spread_ms: 1,
    });
    await settled(stack, sizes.sleeping);
    await pause(SLEEPING_SETTLE_MS);
    const bytes = difference(await stack.stored(), bytesBefore);
    return {
      sleeping_sagas: sizes.sleeping,
      start_per_s: (sizes.sleeping * 1000) / elapsed_ms,
      engine_rss_before_bytes: before,
      engine_rss_bytes: rssByProcess(stack)['engine'] ?? NaN,
      log_bytes_per_saga: (bytes['log'] ?? NaN) / sizes.sleeping,
    };
  });
}

/** Cost of a system that has nothing to do: engine with worker, then the engine alone. */
function idle(bus: BusChoice, sizes: DurabilitySizes): Promise<Figures> {
  return withStack({ bus }, async (stack) => {
    await stack.driver.close();
    await pause(SETTLE_MS);
    const both = await idleFor(stack, sizes.idle_s);
    await stack.own.find(({ role }) => role === 'worker')?.stop();
    stack.own.splice(0, stack.own.length, ...stack.own.filter(({ role }) => role === 'engine'));
    await pause(SETTLE_MS);
    const alone = await idleFor(stack, sizes.idle_s);
    return {
      engine_cpu_percent: alone.engine_cpu_percent,
      engine_queries_per_s: alone.queries_per_s,
      worker_cpu_percent: both.worker_cpu_percent,
      both_queries_per_s: both.queries_per_s,
    };
  });
}

async function idleFor(
  stack: SagaxStack,
  seconds: number,
): Promise<{ engine_cpu_percent: number; worker_cpu_percent: number; queries_per_s: number }> {
  const cpuBefore = cpuByProcess(stack);
  const queriesBefore = await transactions(stack);
  const begun = performance.now();
  await pause(seconds * 1000);
  const elapsed_ms = performance.now() - begun;
  const cpu = difference(cpuByProcess(stack), cpuBefore);
  // Our own two looks are one query each.
  const queries = (await transactions(stack)) - queriesBefore - 1;
  return {
    engine_cpu_percent: ((cpu['engine'] ?? NaN) * 100) / elapsed_ms,
    worker_cpu_percent: ((cpu['worker'] ?? 0) * 100) / elapsed_ms,
    queries_per_s: (queries * 1000) / elapsed_ms,
  };
}

/** Transactions of the database so far; idle processes send single statements, so it is their queries. */
async function transactions(stack: SagaxStack): Promise<number> {
  const { rows } = await stack.postgres.pool.query<{ n: string }>(
    'SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = current_database()',
  );
  return Number(rows[0]?.n);
}

/** Starts by REST that were answered 2xx, while the engine takes them in. */
function rest(bus: BusChoice, sizes: DurabilitySizes): Promise<Figures> {
  return withStack({ bus, worker: false }, async (stack) => {
    const url = await stack.startApi();
    const load = { url, lanes: REST_LANES, seconds: sizes.rest_s };
    await stack.driver.rest({ ...load, batch: 1, seconds: Math.ceil(sizes.rest_s / 4) });
    const before = cpuByProcess(stack);
    const single = await stack.driver.rest({ ...load, batch: 1 });
    const cpu = difference(cpuByProcess(stack), before);
    const batched = await stack.driver.rest({ ...load, lanes: 8, batch: REST_BATCH });
    return {
      starts_per_s: single.per_s,
      api_cpu_ms_per_start: (cpu['api'] ?? NaN) / (single.per_s * sizes.rest_s),
      starts_in_batches_per_s: batched.per_s,
    };
  });
}
