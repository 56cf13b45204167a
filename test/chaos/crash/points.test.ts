/**
 * The points themselves: they stand where they should, change nothing that passes them, and kill for real.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { stripTypeScriptTypes } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makePlan, sha256, withPoints, type Plan } from './points.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');
const PRELOAD = fileURLToPath(new URL('./preload.ts', import.meta.url));

/** Calls to put points at, by their text in the program. */
const PROGRAM = `
const done: string[] = [];
const write = async (what: string): Promise<string> => { done.push(what); return what; };
const fail = async (): Promise<never> => { throw new Error('no'); };
const maybe: { end?: () => Promise<void> } = {};
for (let n = 1; n <= 3; n++) console.log('got', await write('line ' + n));
await fail().catch((error: Error) => console.log('caught', error.message));
console.log('nothing', await maybe.end?.().then(() => 'ended'));
console.log('nested', await write(await write('inner')));
console.log('done', done.length);
`;
const CALLS: [name: string, text: string][] = [
  ['write', "write('line ' + n)"],
  ['fail', 'fail()'],
  ['maybe', "maybe.end?.().then(() => 'ended')"],
  ['outer', "write(await write('inner'))"],
  ['inner', "write('inner')"],
];

// Each test starts a process; a busy machine takes its time.
describe('crash points', { timeout: 60_000 }, () => {
  let folder: string;
  let program: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sagax-points-'));
    program = join(folder, 'program.ts');
    await writeFile(program, PROGRAM);
    await writeFile(join(folder, 'package.json'), '{"type":"module"}');
    await writePlan(sha256(PROGRAM));
  });
  afterEach(() => rm(folder, { recursive: true }));

  async function writePlan(hash: string): Promise<void> {
    const sites = CALLS.map(([name, text]) => {
      const start = PROGRAM.indexOf(text);
      return { name, start, end: start + text.length };
    });
    const plan: Plan = { root: folder, files: { 'program.ts': { sha256: hash, sites } } };
    await writeFile(join(folder, 'plan.json'), JSON.stringify(plan));
  }

  async function run(at?: string): Promise<{ end: unknown; said: string; log: string[] }> {
    const log = join(folder, 'log');
    const child = spawn(process.execPath, [`--import=${PRELOAD}`, program], {
      env: {
        CRASH_PLAN: join(folder, 'plan.json'),
        CRASH_LOG: log,
        ...(at === undefined ? {} : { CRASH_AT: at }),
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => (said += chunk.toString()));
    }
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
    const told = (await readFile(log, 'utf8')).trimEnd().split('\n');
    return { end: code ?? signal, said, log: told };
  }

  test('change nothing, and tell what was passed, in order', async () => {
    const { end, said, log } = await run();
    expect(said.split('\n').slice(0, -1)).toEqual([
      'got line 1',
      'got line 2',
      'got line 3',
      'caught no',
      'nothing undefined',
      'nested inner',
      'done 5',
    ]);
    expect(end).toBe(0);
    expect(log).toEqual([
      '1 write:before',
      '1 write:after',
      '2 write:before',
      '2 write:after',
      '1 fail:before',
      '1 fail:after',
      '1 maybe:before',
      '1 outer:before',
      '1 inner:before',
      '1 inner:after',
      '1 outer:after',
    ]);
  });

  test.each([
    ['write:before@1', []],
    ['write:after@1', []],
    ['write:before@3', ['got line 1', 'got line 2']],
    ['fail:after@1', ['got line 1', 'got line 2', 'got line 3']],
  ])('%s dies of SIGKILL there and nowhere else', async (at, said) => {
    const dead = await run(at);
    expect(dead.end).toBe('SIGKILL');
    expect(dead.said.split('\n').filter((line) => line !== '')).toEqual(said);
    const [, point, passage] = /^(.+)@(\d+)$/.exec(at) ?? [];
    expect(dead.log.at(-1)).toBe(`${passage} ${point}`);
  });

  test('a point that is not passed kills nothing', async () => {
    const { end } = await run('write:before@4');
    expect(end).toBe(0);
  });

  test('a plan of other sources is refused', async () => {
    await writePlan(sha256('something else'));
    const { end, said, log } = await run();
    expect(end).not.toBe(0);
    expect(said).toContain('program.ts has changed since the plan of crash points was made');
    expect(log).toEqual(['']);
  });

  test('stand in all files of the product, which stay TypeScript and keep their lines', async () => {
    const { plan, points } = makePlan(ROOT);
    const files = Object.entries(plan.files);
    expect(files.length).toBeGreaterThan(20);
    expect(points.length).toBe(2 * files.reduce((sum, [, { sites }]) => sum + sites.length, 0));
    for (const [file, { sites }] of files) {
      const text = await readFile(join(ROOT, file), 'utf8');
      const changed = withPoints(text, sites);
      expect(changed.split('\n').length, file).toBe(text.split('\n').length);
      expect(() => stripTypeScriptTypes(changed), file).not.toThrow();
    }
  });
});
