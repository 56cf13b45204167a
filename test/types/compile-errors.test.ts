/**
 * Runs the compiler over the compile-time tests of this folder.
 *
 * Guards that every mistake in them is an error, and that the error is where it is said to be: with all
 * `@ts-expect-error` taken out, the compiler must complain on the line behind each of them, and on no other.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, symlink, mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const EXPECTED = /^\s*\/\/ @ts-expect-error\b.*$/;
/** Fewer than there are now would mean that the search for them has gone wrong. */
const MIN_EXPECTED_ERRORS = 60;

let folder = '';
const expectedLines: string[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sagax-types-'));
  for (const part of ['engine', 'workers', 'definitions', 'node_modules', 'package.json']) {
    await symlink(join(ROOT, part), join(folder, part));
  }
  for (const variant of ['as-written', 'unexpected']) {
    await mkdir(join(folder, 'test', variant), { recursive: true });
    await writeFile(join(folder, 'test', variant, 'tsconfig.json'), tsconfig());
  }
  const names = (await readdir(join(ROOT, 'test/types'))).filter(
    (name) => !name.endsWith('.test.ts'),
  );
  for (const name of names) {
    const source = await readFile(join(ROOT, 'test/types', name), 'utf8');
    await writeFile(join(folder, 'test/as-written', name), source);
    const lines = source.split('\n');
    for (const [index, line] of lines.entries()) {
      // The line behind the comment, counted from 1.
      if (EXPECTED.test(line)) expectedLines.push(`${name}:${index + 2}`);
    }
    const bare = lines.map((line) => (EXPECTED.test(line) ? '//' : line)).join('\n');
    await writeFile(join(folder, 'test/unexpected', name), bare);
  }
});

afterAll(() => rm(folder, { recursive: true, force: true }));

function tsconfig(): string {
  return JSON.stringify({ extends: join(ROOT, 'tsconfig.json'), include: ['*.ts'], exclude: [] });
}

/** @returns `file:line` of each error in the variant's own files, and the compiler's whole output. */
async function compile(variant: string): Promise<{ errors: string[]; output: string }> {
  const output = await new Promise<string>((resolve, reject) => {
    execFile(
      process.execPath,
      [
        join(ROOT, 'node_modules/typescript/bin/tsc'),
        '-p',
        join(folder, 'test', variant),
        '--pretty',
        'false',
      ],
      { cwd: join(folder, 'test', variant), maxBuffer: 64 * 1024 * 1024 },
      // The compiler exits with 1 or 2 when it has found errors; only a failure to run it is ours.
      (error, stdout) => {
        if (error !== null && typeof error.code !== 'number') reject(error);
        else resolve(stdout);
      },
    );
  });
  const errors = [...output.matchAll(/^([\w.-]+\.ts)\((\d+),\d+\): error/gm)].map(
    ([, file, line]) => `${file}:${line}`,
  );
  return { errors: [...new Set(errors)].sort(), output };
}

describe('compile-time tests', { timeout: 60_000 }, () => {
  it('compile as they are written', async () => {
    const { errors, output } = await compile('as-written');
    expect(errors, output).toEqual([]);
  });

  it('fail at each mistake, and only there, when errors are not expected', async () => {
    expect(expectedLines.length).toBeGreaterThanOrEqual(MIN_EXPECTED_ERRORS);
    const { errors, output } = await compile('unexpected');
    expect(errors, output).toEqual([...expectedLines].sort());
  });
});
