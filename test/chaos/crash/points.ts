/**
 * Crash points, and the plan that puts them into the product's sources as they are loaded.
 *
 * Guards that a point stands at each call that does I/O, before it is made and after it is done while its caller
 * has not gone on, with nothing of it in production code: the sources on disk stay as they are, and a process
 * gets the points only when it is started with test/chaos/crash/preload.ts. A point at each call, and not a
 * decorator of each port: two callers of one port method are two places to die at.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findSites, type Site } from '../../../scripts/await-sites.ts';

/** What a process needs to put the points in; JSON, read at its start. */
export interface Plan {
  root: string;
  files: { [file: string]: { sha256: string; sites: Pick<Site, 'name' | 'start' | 'end'>[] } };
}

export type Side = 'before' | 'after';

/** `engine/runtime/relay.ts#run bus.publish:after` */
export function pointName(site: string, side: Side): string {
  return `${site}:${side}`;
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** @throws Error when the check of crash points has findings: the campaign would miss what they name */
export function makePlan(root: string): { plan: Plan; points: string[] } {
  const { sites, findings } = findSites(root);
  if (findings.length > 0) {
    throw new Error(`Mend what \`npm run check -- awaits\` finds first:\n${findings.join('\n')}`);
  }
  const plan: Plan = { root, files: {} };
  for (const { name, file, start, end } of sites) {
    plan.files[file] ??= { sha256: sha256(readFileSync(join(root, file), 'utf8')), sites: [] };
    plan.files[file].sites.push({ name, start, end });
  }
  const points = sites.flatMap(({ name }) => [pointName(name, 'before'), pointName(name, 'after')]);
  return { plan, points };
}

/** Name of the function that preload.ts puts on `globalThis`: one of each pair of points is passed by it. */
export const PASS = '__sagaxCrashPoints';

/**
 * The text with its points: `call()` becomes `P.after(P.before("name"), call())`, whose arguments run in this
 * order. It adds no line, so that stack traces keep theirs.
 */
export function withPoints(
  text: string,
  sites: readonly Pick<Site, 'name' | 'start' | 'end'>[],
): string {
  const marks = sites.flatMap(({ name, start, end }) => [
    { at: start, inner: end, text: `${PASS}.after(${PASS}.before(${JSON.stringify(name)}), ` },
    { at: end, inner: start, text: ')' },
  ]);
  // From the back, so that offsets stay true. Of two that begin at one offset, the longer call is the outer one.
  marks.sort((a, b) => b.at - a.at || a.inner - b.inner);
  let out = text;
  for (const { at, text: added } of marks) out = out.slice(0, at) + added + out.slice(at);
  return out;
}
