/**
 * The benchmark: `npm run bench`. Runs the same work through Sagax on each bus and through its peers.
 *
 * Guards that systems take turns within each round, so that a machine that gets slower or busier meets
 * them alike, and that what was measured is kept even when a later part fails. See docs/BENCHMARKS.md.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeCapacity } from './capacity.ts';
import { LONG, runDurability, type DurabilityScenario } from './durability.ts';
import { parseOptions, UsageError, type Options, type System } from './options.ts';
import { installPeers, startDbos, startRestate } from './peers.ts';
import { printProfile, summariseProfiles } from './profile.ts';
import { tables, writeDocument } from './report.ts';
import { emptyResults, readResults, type Results } from './results.ts';
import { SagaxStack, type BusChoice, type SagaxOptions } from './sagax-stack.ts';
import { brief, measure, warmUp } from './scenarios.ts';
import { Cleanup, type Stack } from './stack.ts';
import { resetStatements, topStatements } from './statements.ts';
import { runTurns, stackOf, turnTable, type Contender } from './turns.ts';

/** Set by the first signal: nothing more is begun. */
const run = { interrupted: false };

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

function busOf(system: System): BusChoice | null {
  switch (system) {
    case 'sagax-kafka':
      return 'kafka';
    case 'sagax-kafka-fsync':
      return 'kafka-fsync';
    case 'sagax-postgres':
      return 'postgres';
    default:
      return null;
  }
}

/** What Sagax is started with, of whichever checkout. */
function sagaxOptions(bus: BusChoice, { shards }: Options): SagaxOptions {
  return { bus, env: shards === null ? {} : { SAGAX_SHARDS: String(shards) } };
}

function startStack(system: System, options: Options, profileFolder?: string): Promise<Stack> {
  const bus = busOf(system);
  if (bus !== null) {
    const profile = profileFolder === undefined ? {} : { profileFolder };
    return SagaxStack.start({ ...sagaxOptions(bus, options), ...profile });
  }
  const participants = system.endsWith('-http') ? 'http' : 'inline';
  return system.startsWith('restate')
    ? startRestate({ participants })
    : startDbos({ participants });
}

/** All loads on one new system, one after another. */
async function runLoads(
  system: System,
  round: number,
  options: Options,
  results: Results,
  save: () => Promise<void>,
): Promise<void> {
  const stack = await startStack(system, options);
  try {
    await warmUp(stack, options.sizes);
    for (const scenario of options.scenarios) {
      const measured = await measure(stack, scenario, options.sizes);
      results.runs.push({ round, system, scenario, measured });
      const foreign = `${measured.foreign_cores.toFixed(2)} cores foreign`;
      say(`round ${round} ${system} ${scenario}: ${brief(measured)}, ${foreign}`);
      await save();
    }
  } finally {
    await stack.stop();
  }
}

async function runDurabilityOf(
  system: System,
  scenario: DurabilityScenario,
  round: number,
  options: Options,
  results: Results,
): Promise<void> {
  const bus = busOf(system);
  // Kafka with and without flushing differ in nothing that these look at.
  if (bus === null || bus === 'kafka-fsync') return;
  if (LONG.has(scenario) && round > 1) return;
  const measured = await runDurability(scenario, bus, options.sizes);
  results.durability.push({ round, system, scenario, measured });
  const figures = Object.entries(measured).map(([what, value]) => `${what} ${value.toFixed(1)}`);
  say(`round ${round} ${system} ${scenario}: ${figures.join(', ')}`);
}

async function runRounds(options: Options, results: Results): Promise<void> {
  const save = async (): Promise<void> => {
    if (options.json !== null)
      await writeFile(options.json, `${JSON.stringify(results, null, 1)}\n`);
  };
  const attempt = async (
    round: number,
    system: System,
    scenario: string,
    work: () => Promise<void>,
  ): Promise<void> => {
    if (run.interrupted) return;
    try {
      await work();
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      say(`round ${round} ${system} ${scenario} failed: ${text}`);
      results.failures.push({ round, system, scenario, error: text.split('\n')[0] ?? '' });
      process.exitCode = 1;
    }
    await save();
  };
  for (let round = 1; round <= options.rounds; round++) {
    // Another one begins each round.
    const first = (round - 1) % options.systems.length;
    const systems = [...options.systems.slice(first), ...options.systems.slice(0, first)];
    if (options.scenarios.length > 0) {
      for (const system of systems) {
        const work = (): Promise<void> => runLoads(system, round, options, results, save);
        await attempt(round, system, 'loads', work);
      }
    }
    for (const scenario of options.durability) {
      for (const system of systems) {
        const work = (): Promise<void> =>
          runDurabilityOf(system, scenario, round, options, results);
        await attempt(round, system, scenario, work);
      }
    }
  }
}

/** The first scenario that was asked for, on each Sagax, under the profiler. */
async function profile(options: Options): Promise<void> {
  const scenario = options.scenarios[0] ?? 'throughput';
  for (const system of options.systems.filter((each) => busOf(each) !== null)) {
    const folder = await mkdtemp(join(tmpdir(), 'sagax-bench-profile-'));
    try {
      const stack = (await startStack(system, options, folder)) as SagaxStack;
      try {
        await warmUp(stack, options.sizes);
        await resetStatements(stack.postgres);
        const measured = await measure(stack, scenario, options.sizes);
        process.stdout.write(`\n=== ${system}, ${scenario}: ${measured.per_s.toFixed(0)}/s\n`);
        process.stdout.write(`CPU ms a saga ${JSON.stringify(measured.cpu_ms_by)}\n`);
        process.stdout.write(await topStatements(stack.postgres));
      } finally {
        await stack.stop();
      }
      for (const one of await summariseProfiles(folder)) process.stdout.write(printProfile(one));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
}

async function takeTurns(options: Options, turns: number): Promise<void> {
  const { against, systems, json } = options;
  const contenders: Contender[] = systems.map((system) => ({
    name: system,
    start: () => startStack(system, options),
  }));
  if (against !== null) {
    const startTheirs = await stackOf(against);
    for (const system of systems) {
      const bus = busOf(system);
      if (bus === null) continue;
      const start = (): Promise<Stack> => startTheirs(sagaxOptions(bus, options));
      contenders.push({ name: `${system} of ${against}`, start });
    }
  }
  const done = await runTurns(contenders, turns, options, say);
  if (json !== null) await writeFile(json, `${JSON.stringify(done, null, 1)}\n`);
  process.stdout.write(`${turnTable(done)}\n`);
}

async function main(options: Options): Promise<void> {
  if (options.profile) return profile(options);
  if (options.from === null && options.systems.some((system) => busOf(system) === null)) {
    await installPeers();
  }
  if (options.turns !== null) return takeTurns(options, options.turns);
  let results: Results;
  if (options.from === null) {
    results = await emptyResults(options);
    await runRounds(options, results);
  } else {
    results = await readResults(options.from);
  }
  process.stdout.write(`${tables(results)}\n`);
  if (options.docs) await writeDocument(results);
  if (options.docs || options.scaling) await writeCapacity(results);
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    say(`${signal}: stopping what was started …`);
    run.interrupted = true;
    const open = [...Cleanup.open].map((cleanup) => cleanup.run());
    void Promise.allSettled(open).then(() => process.exit(130));
  });
}
try {
  const options = parseOptions(process.argv.slice(2));
  if (options !== null) await main(options);
} catch (error) {
  const known =
    error instanceof UsageError || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS');
  say(known === true ? (error as Error).message : ((error as Error).stack ?? String(error)));
  process.exitCode = known === true ? 64 : 1;
}
process.exit();
