/**
 * Runs seeds of the simulation: `npm run sim -- --seeds 2000 [--from N] [--jobs N]`, or one of them with
 * all that happens in it: `npm run sim -- --seed N`. `--break NAME` runs a deliberate break.
 *
 * Prints progress, each failing seed with what it violates and how to replay it, and at the end what was
 * injected and reached, so that blind spots are seen. Exit code 1 when a seed failed.
 */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { BREAKS } from './breaks.ts';
import { Coverage, type SeedReport } from './coverage.ts';
import { simulate } from './simulate.ts';

interface Share {
  from: number;
  step: number;
  count: number;
  breakName: string | null;
}

/** Reports sent home at once, so that threads spend their time on seeds. */
const REPORTS_PER_MESSAGE = 10;
const VIOLATIONS_SHOWN = 5;
const FAILURES_SHOWN = 20;
const USAGE = `Usage: npm run sim -- [--seeds N] [--from N] [--jobs N] [--break NAME]
       npm run sim -- --seed N [--break NAME]    one seed, with its trace`;

async function runShare({ from, step, count, breakName }: Share): Promise<void> {
  let reports: SeedReport[] = [];
  const send = (): void => {
    parentPort?.postMessage(reports);
    reports = [];
  };
  for (let index = 0; index < count; index++) {
    reports.push(await runSeed(from + index * step, breakName));
    if (reports.length >= REPORTS_PER_MESSAGE) send();
  }
  send();
}

async function runSeed(
  seed: number,
  breakName: string | null,
  trace?: (line: string) => void,
): Promise<SeedReport> {
  const { breakage } = BREAKS.find(({ name }) => name === breakName) ?? {};
  const result = await simulate(seed, {
    ...(breakage === undefined ? {} : { breakage }),
    ...(trace === undefined ? {} : { trace }),
  });
  return Coverage.report(result);
}

async function replay(seed: number, breakName: string | null): Promise<number> {
  const report = await runSeed(seed, breakName, (line) => console.log(line));
  console.log(
    `\nseed ${seed}: ${report.sagas} sagas, ${report.events} events, trace ${report.traceHash}`,
  );
  for (const line of report.streams) console.log(line);
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
  breakName: string | null;
}): Promise<number> {
  const { seeds, from, jobs, breakName } = options;
  const coverage = new Coverage();
  const startedAt = performance.now();
  let failures = 0;
  let shownAt = startedAt;
  const take = (report: SeedReport): void => {
    coverage.add(report);
    if (report.violations.length > 0 && ++failures <= FAILURES_SHOWN) {
      printViolations(report);
      const suffix = breakName === null ? '' : ` --break ${breakName}`;
      console.log(`  replay: npm run sim -- --seed ${report.seed}${suffix}`);
    }
    const now = performance.now();
    if (now - shownAt < 5_000) return;
    shownAt = now;
    console.log(`… ${coverage.seeds} of ${seeds} seeds, ${failures} failed`);
  };
  await Promise.all(
    Array.from({ length: Math.min(jobs, seeds) }, (_, job) => {
      const count = Math.ceil((seeds - job) / jobs);
      return inThread({ from: from + job, step: jobs, count, breakName }, take);
    }),
  );
  const seconds = (performance.now() - startedAt) / 1000;
  console.log(coverage.summary());
  console.log(
    `${coverage.seeds} seeds from ${from} in ${seconds.toFixed(1)} s (${(coverage.seeds / seconds).toFixed(0)}/s, ${jobs} jobs): ${failures} failed`,
  );
  return failures === 0 ? 0 : 1;
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
  if (values.seed !== undefined) return replay(whole(values.seed, 'seed', 1), breakName);
  return runMany({
    seeds: Math.max(1, whole(values.seeds, 'seeds', 200)),
    from: whole(values.from, 'from', 1),
    jobs: Math.max(1, whole(values.jobs, 'jobs', availableParallelism())),
    breakName,
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
