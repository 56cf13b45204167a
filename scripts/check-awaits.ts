/**
 * Checks that every await which does I/O in engine and workers has crash points.
 *
 * Guards the crash campaign (test/chaos/crash): it kills a process at each of the points that are derived here, so
 * an await that is in none of the lists would be a crash that nobody has tried. It also fails when it looked at
 * nothing. Usage: node scripts/check-awaits.ts [--list]
 */
import { fileURLToPath } from 'node:url';
import { findSites } from './await-sites.ts';

/** Far below what there is; a look at the wrong folder finds none. */
const FEWEST_SITES = 50;

const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
const { sites, findings, files, counts, unused } = findSites(root);
if (process.argv.includes('--list')) {
  for (const { name, line } of sites) console.log(`${name} (line ${line})`);
}
for (const finding of findings) console.error(finding);
for (const rule of unused) {
  console.error(
    `scripts/await-rules.ts: nothing is called "${rule}" any more: take the entry out.`,
  );
}
if (sites.length < FEWEST_SITES)
  console.error(`Only ${sites.length} calls that do I/O were found.`);
console.log(
  `${files} files; ${sites.length} calls with I/O, each with a crash point before and after it; ` +
    `${counts.inner} of code that is looked at, ${counts['handed-in']} handed in, ${counts.combinator} joins, ` +
    `${counts.wait} waits; ${findings.length + unused.length} findings`,
);
process.exitCode = findings.length + unused.length === 0 && sites.length >= FEWEST_SITES ? 0 : 1;
