/** The totals that CI reports: taken from the report, and red whenever something is not known to be green. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const script = fileURLToPath(new URL('../../scripts/ci-totals.mjs', import.meta.url));
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sagax-ci-'));
});
afterEach(() => rm(folder, { recursive: true }));

interface Counts {
  passed: number;
  failed: number;
  pending: number;
  todo: number;
}

async function totalsOf(run: {
  report?: Counts | string;
  tests: number;
  check: number;
  sim?: number;
  chaos?: number;
}) {
  const report = join(folder, 'tests.json');
  if (typeof run.report === 'string') await writeFile(report, run.report);
  if (typeof run.report === 'object') {
    const { passed, failed, pending, todo } = run.report;
    const counts = {
      numPassedTests: passed,
      numFailedTests: failed,
      numPendingTests: pending,
      numTodoTests: todo,
      numTotalTests: passed + failed + pending + todo,
    };
    await writeFile(report, JSON.stringify(counts));
  }
  const args = [
    script,
    '--report',
    report,
    '--tests',
    String(run.tests),
    '--check',
    String(run.check),
  ];
  if (run.sim !== undefined) args.push('--sim', String(run.sim));
  if (run.chaos !== undefined) args.push('--chaos', String(run.chaos));
  return new Promise<{ line: string; exitCode: number }>((resolve) => {
    const child = execFile(process.execPath, args, (_error, stdout) =>
      resolve({ line: stdout.trimEnd().split('\n').at(-1) ?? '', exitCode: child.exitCode ?? -1 }),
    );
  });
}

const green: Counts = { passed: 40, failed: 0, pending: 2, todo: 1 };

describe('ci totals', () => {
  it.each([
    [
      'all green',
      { report: green, tests: 0, check: 0, sim: 0 },
      '42 passed, 0 failed, 3 skipped',
      0,
    ],
    ['no simulator', { report: green, tests: 0, check: 0 }, '41 passed, 0 failed, 3 skipped', 0],
    [
      'a failed test',
      { report: { ...green, failed: 2 }, tests: 1, check: 0 },
      '41 passed, 2 failed, 3 skipped',
      1,
    ],
    [
      'a failed check',
      { report: green, tests: 0, check: 1, sim: 0 },
      '41 passed, 1 failed, 3 skipped',
      1,
    ],
    [
      'campaigns of faults as well',
      { report: green, tests: 0, check: 0, sim: 0, chaos: 0 },
      '43 passed, 0 failed, 3 skipped',
      0,
    ],
    [
      'a failed campaign of faults',
      { report: green, tests: 0, check: 0, sim: 0, chaos: 1 },
      '42 passed, 1 failed, 3 skipped',
      1,
    ],
    [
      'a failed simulator',
      { report: green, tests: 0, check: 0, sim: 3 },
      '41 passed, 1 failed, 3 skipped',
      1,
    ],
    [
      'a failure outside of tests',
      { report: green, tests: 1, check: 0 },
      '41 passed, 1 failed, 3 skipped',
      1,
    ],
    ['no report', { tests: 0, check: 0, sim: 0 }, '2 passed, 1 failed, 0 skipped', 1],
    [
      'a broken report',
      { report: '{"numPassed', tests: 0, check: 0 },
      '1 passed, 1 failed, 0 skipped',
      1,
    ],
    [
      'a report of something else',
      { report: '{}', tests: 0, check: 0 },
      '1 passed, 1 failed, 0 skipped',
      1,
    ],
    [
      'no tests',
      { report: { passed: 0, failed: 0, pending: 0, todo: 0 }, tests: 0, check: 0 },
      '1 passed, 1 failed, 0 skipped',
      1,
    ],
  ])('%s', async (_name, run, line, exitCode) => {
    expect(await totalsOf(run)).toEqual({ line, exitCode });
  });
});
