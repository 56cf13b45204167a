/**
 * Loaded before the product (`node --import`): puts the crash points into its sources, counts what is passed, and
 * kills this process with SIGKILL at the point that it was told.
 *
 * Guards that the death is that of a real kill: nothing is flushed, no handler runs, no connection is closed.
 * CRASH_PLAN: file with the plan. CRASH_LOG: file that is told of each point at its 1st, 2nd, 4th, 8th … passage.
 * CRASH_AT: `<point>@<n>`, the n-th passage to die at; without it the process only tells what it passes.
 */
import { openSync, readFileSync, writeSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PASS, pointName, sha256, withPoints, type Plan, type Side } from './points.ts';

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`preload.ts needs ${name}; see its header.`);
  return value;
}

const plan = JSON.parse(readFileSync(variable('CRASH_PLAN'), 'utf8')) as Plan;
const log = openSync(variable('CRASH_LOG'), 'a');
const [, victim = null, nth = '0'] = /^(.+)@(\d+)$/.exec(process.env['CRASH_AT'] ?? '') ?? [];
const dieAt = Number(nth);

const passages = new Map<string, number>();

function pass(site: string, side: Side): void {
  const point = pointName(site, side);
  const count = (passages.get(point) ?? 0) + 1;
  passages.set(point, count);
  const dies = point === victim && count === dieAt;
  // Powers of two: enough to know that a later passage is to be had, for few writes.
  if (dies || (count & (count - 1)) === 0) writeSync(log, `${count} ${point}\n`);
  if (!dies) return;
  process.kill(process.pid, 'SIGKILL');
  // The signal is taken before `kill` returns; should the kernel be late, nothing must go on meanwhile.
  for (;;);
}

Object.defineProperty(globalThis, PASS, {
  value: {
    before: (site: string): string => {
      pass(site, 'before');
      return site;
    },
    after: (site: string, made: unknown): unknown => {
      if (!(made instanceof Promise)) return made;
      return made.then(
        (value: unknown) => {
          pass(site, 'after');
          return value;
        },
        (error: unknown) => {
          pass(site, 'after');
          throw error;
        },
      );
    },
  },
});

const fileOf = new Map(
  Object.keys(plan.files).map((file) => [pathToFileURL(join(plan.root, file)).href, file]),
);

registerHooks({
  load: (url, context, next) => {
    const file = fileOf.get(url);
    const { sha256: wanted, sites } = (file === undefined ? undefined : plan.files[file]) ?? {};
    if (file === undefined || wanted === undefined || sites === undefined)
      return next(url, context);
    const source = readFileSync(new URL(url), 'utf8');
    if (sha256(source) !== wanted) {
      throw new Error(`${file} has changed since the plan of crash points was made. Make it anew.`);
    }
    return { format: 'module-typescript', source: withPoints(source, sites), shortCircuit: true };
  },
});
