/**
 * CPU profiles of V8 (.cpuprofile) as tables: self time by package and by function.
 *
 * Guards that self time is counted by the samples' own time deltas, so that idle time is told apart.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const TOP_FUNCTIONS = 30;
/** Packages below this part of the busy time are left out. */
const SHOWN_PART = 0.004;

interface Profile {
  nodes: {
    id: number;
    callFrame: { functionName: string; url: string; lineNumber: number };
  }[];
  samples: number[];
  timeDeltas: number[];
}

export interface ProfileSummary {
  file: string;
  busy_ms: number;
  groups: [string, number][];
  functions: [string, number][];
}

export async function summariseProfiles(folder: string): Promise<ProfileSummary[]> {
  const files = (await readdir(folder)).filter((name) => name.endsWith('.cpuprofile')).sort();
  return Promise.all(files.map((file) => summarise(folder, file)));
}

async function summarise(folder: string, file: string): Promise<ProfileSummary> {
  const profile = JSON.parse(await readFile(join(folder, file), 'utf8')) as Profile;
  const frames = new Map(profile.nodes.map(({ id, callFrame }) => [id, callFrame]));
  const groups = new Map<string, number>();
  const functions = new Map<string, number>();
  let busy_ms = 0;
  profile.samples.forEach((id, index) => {
    const frame = frames.get(id);
    // A delta is the time before its sample; it is counted to the sample before.
    const ms = (profile.timeDeltas[index + 1] ?? 0) / 1000;
    if (frame === undefined || frame.functionName === '(idle)') return;
    busy_ms += ms;
    const group = groupOf(frame.functionName, frame.url);
    groups.set(group, (groups.get(group) ?? 0) + ms);
    const where = `${frame.functionName || '(anonymous)'} ${shortPath(frame.url)}:${frame.lineNumber + 1}`;
    functions.set(where, (functions.get(where) ?? 0) + ms);
  });
  return {
    file,
    busy_ms,
    groups: sorted(groups).filter(([, ms]) => ms > busy_ms * SHOWN_PART),
    functions: sorted(functions).slice(0, TOP_FUNCTIONS),
  };
}

function sorted(sums: ReadonlyMap<string, number>): [string, number][] {
  return [...sums].sort(([, a], [, b]) => b - a);
}

/** `xstate`, `pg`, `sagax/core`, `node:internal/streams`, `(garbage collector)`… */
function groupOf(name: string, url: string): string {
  if (url === '') return name === '(garbage collector)' ? name : 'native';
  if (url.startsWith('wasm:')) return 'wasm';
  const inPackage = /node_modules\/((?:@[^/]+\/)?[^/]+)\/(?!.*node_modules)/.exec(url)?.[1];
  if (inPackage !== undefined) return inPackage.startsWith('pg-') ? 'pg' : inPackage;
  if (url.startsWith('node:')) return url.split('/').slice(0, 2).join('/').replace(/\.js$/, '');
  const own = shortPath(url).split('/');
  return `sagax/${own[0] === 'engine' ? own[1] : own[0]}`;
}

function shortPath(url: string): string {
  return url.replace(/^file:\/\//, '').replace(ROOT, '');
}

export function printProfile({ file, busy_ms, groups, functions }: ProfileSummary): string {
  const share = (ms: number): string => `${((ms * 100) / busy_ms).toFixed(1).padStart(5)} %`;
  const rows = (entries: readonly [string, number][]): string =>
    entries
      .map(([what, ms]) => `  ${share(ms)} ${ms.toFixed(0).padStart(7)} ms  ${what}`)
      .join('\n');
  return `${file}: busy ${busy_ms.toFixed(0)} ms\n by package\n${rows(groups)}\n by function (self)\n${rows(functions)}\n`;
}
