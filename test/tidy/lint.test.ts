/**
 * The lint set-up is proved to bite: what must be refused in engine/core is refused there and allowed
 * elsewhere, and the type-aware rules see types. A rule that is misspelt or not loaded is silent.
 */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const projectRoot = fileURLToPath(new URL('../..', import.meta.url));

/** Line of code → what refuses it in engine/core; null when nothing does. */
const IMPURE: [code: string, refusal: string | null][] = [
  ['export const a = Date.now();', 'Date.now reads a clock'],
  ['export const a = new Date();', 'new Date() without an argument reads a clock'],
  ['export const a = Date();', 'Date() reads a clock'],
  ['export const a = performance.now();', 'performance reads a clock'],
  ['export const a = setTimeout;', 'setTimeout reads a clock'],
  ['export const a = Math.random();', 'Math.random is chance'],
  ['export const a = crypto.randomUUID();', 'crypto is chance'],
  ['export const a = process.argv;', 'process is IO'],
  ['export const a = globalThis;', 'globalThis is IO'],
  ['export const a = (): unknown => Promise.resolve();', 'Promise is async'],
  ['export const a = { async b() {} };', 'An async function is async'],
  ["export const a = (): unknown => import('./b.ts');", 'import() is async'],
  ["export { join } from 'node:path';", 'The import of "node:path"'],
  ["export { z } from 'zod';", null],
  ['export const a = (ms: number): Date => new Date(ms);', null],
  ['export const a = (process: number, b: Promise<void>): unknown[] => [process, b];', null],
];

const TYPE_AWARE: [code: string, rule: string][] = [
  [
    'const b = async (): Promise<void> => {};\nexport const a = (): void => { b(); };',
    'no-floating-promises',
  ],
  ['export const a = (b: Promise<void>): number => (b ? 1 : 2);', 'no-misused-promises'],
  ['export const a = async (b: number): Promise<number> => await b;', 'await-thenable'],
  [
    "export const a = (b: 'x' | 'y'): void => { switch (b) { case 'x': } };",
    'switch-exhaustiveness-check',
  ],
  ['export const a = (b: any): void => { void b; };', 'no-explicit-any'],
  ['export const a = (b: string): unknown => JSON.parse(b).c;', 'no-unsafe-member-access'],
  ['export const a = (b?: string): string => b!;', 'no-non-null-assertion'],
  ['export const a = (): void => { const b = 1; };', 'no-unused-vars'],
];

let root: string;
let lines: string[];

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'sagax-lint-'));
  for (const name of ['.oxlintrc.json', 'tsconfig.json'])
    await copyFile(join(projectRoot, name), join(root, name));
  for (const name of ['node_modules', 'scripts'])
    await symlink(join(projectRoot, name), join(root, name));
  const write = async (path: string, code: string): Promise<void> => {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), `${code}\n`);
  };
  for (const [index, [code]] of IMPURE.entries()) {
    await write(`engine/core/impure-${index}.ts`, code);
    await write(`engine/runtime/impure-${index}.ts`, code);
  }
  for (const [index, [code]] of TYPE_AWARE.entries()) await write(`api/typed-${index}.ts`, code);
  lines = await lint();
}, 30_000);
afterAll(() => rm(root, { recursive: true }));

/** One line per finding: `path:line:column: message [Error/plugin(rule)]`. */
function lint(): Promise<string[]> {
  const oxlint = join(projectRoot, 'node_modules/oxlint/bin/oxlint');
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [oxlint, '--format', 'unix', 'engine', 'api'],
      { cwd: root },
      (_error, stdout) => resolve(stdout.split('\n')),
    );
  });
}

const findingsOf = (path: string): string[] => lines.filter((line) => line.startsWith(`${path}:`));

describe('lint', () => {
  it.each(IMPURE.map(([code, refusal], index) => ({ code, refusal, index })))(
    'in the core: $code → $refusal',
    ({ refusal, index }) => {
      const ofCore = findingsOf(`engine/core/impure-${index}.ts`).filter((line) =>
        line.includes('sagax(pure-core)'),
      );
      const refusals = refusal === null ? [] : [refusal];
      expect(
        ofCore.map((line, n) => (line.includes(refusals[n] ?? '?') ? refusals[n] : line)),
      ).toEqual(refusals);
    },
  );

  it('keeps the rule of the core out of the rest', () => {
    expect(
      lines.filter((line) => line.includes('sagax(pure-core)') && !line.startsWith('engine/core/')),
    ).toEqual([]);
  });

  it.each(TYPE_AWARE.map(([code, rule], index) => ({ code, rule, index })))(
    '$rule refuses $code',
    ({ rule, index }) => {
      expect(findingsOf(`api/typed-${index}.ts`).join('\n')).toContain(`(${rule})`);
    },
  );
});
