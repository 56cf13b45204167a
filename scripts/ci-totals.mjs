/**
 * Adds up what CI ran: vitest's JSON report, and the check, the simulator and the campaigns of faults as one each.
 *
 * Guards that a run without a report, without tests, or with a failure outside of any test (a file that
 * doesn't load, an unhandled rejection) never looks green. Prints "N passed, N failed, N skipped"
 * alone on the last line; exits 1 on any failure. Plain JavaScript, since the set-up may have failed.
 *
 * Usage: node scripts/ci-totals.mjs --report <file> --tests <exit code> --check <exit code>
 *   [--sim <exit code>] [--chaos <exit code>]
 */
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

/**
 * @param {string | null} report text of vitest's JSON report; null when there is none
 * @param {{ tests: number, check: number, sim?: number, chaos?: number }} exitCodes
 * @returns {{ passed: number, failed: number, skipped: number, notes: string[] }}
 */
export function totals(report, { tests, check, sim, chaos }) {
  const sum = testTotals(report, tests);
  for (const [name, code] of Object.entries({ check, sim, chaos })) {
    if (code === undefined) continue;
    if (code === 0) sum.passed += 1;
    else {
      sum.failed += 1;
      sum.notes.push(`${name} failed with exit code ${code}`);
    }
  }
  return sum;
}

function testTotals(report, exitCode) {
  const notes = [];
  let counts = [0, 0, 0, 0, 0];
  try {
    if (report === null) throw new Error('the file is missing');
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, numTotalTests } =
      JSON.parse(report);
    counts = [numPassedTests, numFailedTests, numPendingTests, numTodoTests, numTotalTests];
    if (!counts.every((count) => Number.isInteger(count) && count >= 0))
      throw new TypeError('counts are missing');
  } catch (error) {
    notes.push(`no usable report of the tests: ${error.message}`);
    return { passed: 0, failed: 1, skipped: 0, notes };
  }
  const [passed, failedTests, pending, todo, total] = counts;
  let failed = failedTests;
  if (total === 0) {
    failed = 1;
    notes.push('the report has no tests');
  } else if (exitCode !== 0 && failed === 0) {
    failed = 1;
    notes.push(`no test failed, but the run ended with exit code ${exitCode}`);
  }
  return { passed, failed, skipped: pending + todo, notes };
}

function main(args) {
  const options = {};
  for (let n = 0; n < args.length; n += 2) options[args[n].replace(/^--/, '')] = args[n + 1];
  let report = null;
  try {
    report = readFileSync(options.report, 'utf8');
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  const exitCodes = { tests: Number(options.tests), check: Number(options.check) };
  if (options.sim !== undefined) exitCodes.sim = Number(options.sim);
  if (options.chaos !== undefined) exitCodes.chaos = Number(options.chaos);
  const { passed, failed, skipped, notes } = totals(report, exitCodes);
  for (const note of notes) console.error(`ci: ${note}`);
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  process.exitCode = failed === 0 ? 0 : 1;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main(process.argv.slice(2));
