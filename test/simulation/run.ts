/**
 * Runs seeds of the simulation: `npm run sim -- --seeds 2000 [--from N] [--jobs N]`, or one of them with
 * all that happens in it: `npm run sim -- --seed N`. `--break NAME` runs a deliberate break.
 *
 * Prints progress, each failing seed with what it violates and how to replay it, and at the end what was
 * injected and reached, so that blind spots are seen. Exit code 1 when a seed failed, and with `--strict` also
 * when something that is declared was never reached.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { BREAKS } from './breaks.ts';
import { Coverage, type SeedReport } from './coverage.ts';
import { outlineOf, isGenerated } from './generated.ts';
import { DRAWN, type Drawn } from './plan.ts';
import { simulate, type SimulationResult } from './simulate.ts';

interface Share {
  from: number;
  step: number;
  count: number;
  how: How;
}

/** What is run with each seed. */
interface How {
  breakName: string | null;
  drawn: Drawn;
}

/** Reports sent home at once, so that threads spend their time on seeds. */
const REPORTS_PER_MESSAGE = 10;
const VIOLATIONS_SHOWN = 5;
const FAILURES_SHOWN = 20;
const USAGE = `Usage: npm run sim -- [--seeds N] [--from N] [--jobs N] [--only written|generated] [--break NAME]
               [--strict] [--report FILE.json]   --strict: a blind spot fails the run
       npm run sim -- --seed N [--only …] [--break NAME]    one seed, with its trace`;

async function runShare({ from, step, count, how }: Share): Promise<void> {
  let reports: SeedReport[] = [];
  const send = (): void => {
    parentPort?.postMessage(reports);
    reports = [];
  };
  for (let index = 0; index < count; index++) {
    reports.push(Coverage.report(await runSeed(from + index * step, how)));
    if (reports.length >= REPORTS_PER_MESSAGE) send();
  }
  send();
}

function runSeed(
  seed: number,
  { breakName, drawn }: How,
  trace?: (line: string) => void,
): Promise<SimulationResult> {
  const { breakage } = BREAKS.find(({ name }) => name === breakName) ?? {};
  return simulate(seed, {
    drawn,
    ...(breakage === undefined ? {} : { breakage }),
    ...(trace === undefined ? {} : { trace }),
  });
}

async function replay(seed: number, how: How): Promise<number> {
  const result = await runSeed(seed, how, (line) => console.log(line));
  const report = Coverage.report(result);
  console.log(
    `\nseed ${seed}: ${report.sagas} sagas, ${report.events} events, trace ${report.traceHash}`,
  );
  for (const definition of result.plan.definitions) {
    if (isGenerated(definition.name)) console.log(outlineOf(definition).join('\n'));
  }
  for (const line of Coverage.streams(result)) console.log(line);
  printViolations(report);
  return report.violations.length === 0 ? 0 : 1;
}

function printViolations({ seed, violations }: SeedReport): void {
  if (violations.length === 0) return;
  console.log(`seed ${seed} FAILED:`);
  for (const { invariant, sagaId, what } of violations.slice(0, VIOLATIONS_SHOWN)) {
    console.log(`  ${invariant}${sagaId === null ? '' : ` saga ${sagaId}`}: ${what.slice(0, 600)}`);
  }
  const more = violations.length - VIOLATIONS_SHOWN;
  if (more > 0) console.log(`  … and ${more} more`);
}

async function runMany(options: {
  seeds: number;
  from: number;
  jobs: number;
  how: How;
  isStrict: boolean;
  reportPath: string | null;
}): Promise<number> {
  const { seeds, from, jobs, how, isStrict, reportPath } = options;
  const coverage = new Coverage();
  const startedAt = performance.now();
  let failures = 0;
  let shownAt = startedAt;
  const take = (report: SeedReport): void => {
    coverage.add(report);
    if (report.violations.length > 0 && ++failures <= FAILURES_SHOWN) {
      printViolations(report);
      console.log(`  replay: npm run sim -- --seed ${report.seed}${argumentsOf(how)}`);
    }
    const now = performance.now();
    if (now - shownAt < 5_000) return;
    shownAt = now;
    console.log(`… ${coverage.seeds} of ${seeds} seeds, ${failures} failed`);
  };
  await Promise.all(
    Array.from({ length: Math.min(jobs, seeds) }, (_, job) => {
      const count = Math.ceil((seeds - job) / jobs);
      return inThread({ from: from + job, step: jobs, count, how }, take);
    }),
  );
  const seconds = (performance.now() - startedAt) / 1000;
  console.log(coverage.summary());
  console.log(
    `${coverage.seeds} seeds from ${from} in ${seconds.toFixed(1)} s (${(coverage.seeds / seconds).toFixed(0)}/s, ${jobs} jobs): ${failures} failed`,
  );
  if (reportPath !== null) {
    writeFileSync(reportPath, `${JSON.stringify(coverage.report(), null, 2)}\n`);
    console.log(`the coverage is in ${reportPath}`);
  }
  const spots = Object.keys(coverage.blindSpots());
  if (isStrict && spots.length > 0) {
    console.log(
      `FAILED for blind spots: ${spots.join('; ')}. Let the plan draw what leads there, or declare in test/simulation/points.ts what there is to reach.`,
    );
    return 1;
  }
  return failures === 0 ? 0 : 1;
}

function argumentsOf({ breakName, drawn }: How): string {
  return `${drawn === 'all' ? '' : ` --only ${drawn}`}${breakName === null ? '' : ` --break ${breakName}`}`;
}

function inThread(share: Share, take: (report: SeedReport) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL(import.meta.url), { workerData: share });
    thread.on('message', (reports: SeedReport[]) => reports.forEach(take));
    thread.on('error', reject);
    thread.on('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`A simulation thread ended with code ${code}.`)),
    );
  });
}

/** @throws Error saying which argument is wrong */
function whole(text: string | undefined, name: string, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  if (!Number.isInteger(value) || value < 0) {
    throw new Error(`--${name} is "${text}"; give a whole number ≥ 0.\n${USAGE}`);
  }
  return value;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string' },
      seed: { type: 'string' },
      from: { type: 'string' },
      jobs: { type: 'string' },
      break: { type: 'string' },
      only: { type: 'string' },
      report: { type: 'string' },
      strict: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    console.log(USAGE);
    return 0;
  }
  const breakName = values.break ?? null;
  if (breakName !== null && !BREAKS.some(({ name }) => name === breakName)) {
    throw new Error(
      `There is no break "${breakName}"; there are: ${BREAKS.map(({ name }) => name).join(', ')}.`,
    );
  }
  const drawn = DRAWN.find((one) => one === (values.only ?? 'all'));
  if (drawn === undefined) {
    throw new Error(`--only is "${values.only}"; give one of ${DRAWN.join(', ')}.\n${USAGE}`);
  }
  const how = { breakName, drawn };
  if (values.seed !== undefined) return replay(whole(values.seed, 'seed', 1), how);
  return runMany({
    seeds: Math.max(1, whole(values.seeds, 'seeds', 200)),
    from: whole(values.from, 'from', 1),
    jobs: Math.max(1, whole(values.jobs, 'jobs', availableParallelism())),
    how,
    isStrict: values.strict === true,
    reportPath: values.report ?? null,
  });
}

if (isMainThread) {
  try {
    process.exitCode = await main();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 2;
  }
} else {
  await runShare(workerData as Share);
}
