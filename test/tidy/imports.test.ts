/**
 * Each import rule is broken once, in a project of its own, and must fire: a rule that matches nothing
 * looks just like a rule that is kept.
 */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkImports } from '../../scripts/check-imports.ts';
import config from '../../scripts/import-rules.ts';

const projectRoot = fileURLToPath(new URL('../..', import.meta.url));
let root: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'sagax-imports-'));
  await symlink(join(projectRoot, 'node_modules'), join(root, 'node_modules'));
  await write('package.json', {
    type: 'module',
    dependencies: { pg: '*', kafkajs: '*', fastify: '*', xstate: '*', zod: '*' },
    devDependencies: { 'fast-check': '*' },
  });
});
afterEach(() => rm(root, { recursive: true }));

async function write(path: string, content: string | object): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(
    join(root, path),
    typeof content === 'string' ? content : JSON.stringify(content),
  );
}

/** Writes the files, each a list of imports (with the files they lead to), and gives the rules that fired. */
async function rulesBrokenBy(files: { [path: string]: string[] }): Promise<string[]> {
  for (const [path, imports] of Object.entries(files)) {
    const lines = imports.map((source, n) => `import * as m${n} from '${source}'; void m${n};`);
    await write(path, `${lines.join('\n')}\nexport const here = 1;\n`);
  }
  const { findings } = await checkImports(root);
  return [
    ...new Set(findings.map((finding) => /: ([a-z-]+)\. /.exec(finding)?.[1] ?? finding)),
  ].sort();
}

const to = (path: string): { [path: string]: string[] } => ({ [path]: [] });

const VIOLATIONS: { rule: string; files: { [path: string]: string[] } }[] = [
  {
    rule: 'checker-stands-alone',
    files: { 'test/chaos/checker/a.ts': ['../../../engine/core/b.ts'], ...to('engine/core/b.ts') },
  },
  {
    rule: 'checker-stands-alone',
    files: { 'test/chaos/checker/a.ts': ['../stage.ts'], ...to('test/chaos/stage.ts') },
  },
  { rule: 'core-is-pure', files: { 'engine/core/a.ts': ['node:fs'] } },
  {
    rule: 'core-is-pure',
    files: { 'engine/core/a.ts': ['../ports.ts'], ...to('engine/ports.ts') },
  },
  {
    rule: 'ports-see-core',
    files: { 'engine/ports-read.ts': ['./runtime/a.ts'], ...to('engine/runtime/a.ts') },
  },
  {
    rule: 'adapters-see-ports',
    files: { 'engine/kafka/a.ts': ['../memory/b.ts'], ...to('engine/memory/b.ts') },
  },
  {
    rule: 'adapters-see-ports',
    files: { 'engine/postgres/a.ts': ['../runtime/b.ts'], ...to('engine/runtime/b.ts') },
  },
  {
    rule: 'runtime-sees-ports',
    files: { 'engine/runtime/a.ts': ['../postgres/b.ts'], ...to('engine/postgres/b.ts') },
  },
  {
    rule: 'engine-stands-alone',
    files: { 'engine/index.ts': ['../definitions/a.ts'], ...to('definitions/a.ts') },
  },
  {
    rule: 'definitions-see-core',
    files: { 'definitions/a.ts': ['../engine/ports.ts'], ...to('engine/ports.ts') },
  },
  { rule: 'definitions-see-core', files: { 'definitions/a.ts': ['node:crypto'] } },
  {
    rule: 'workers-see-ports',
    files: { 'workers/a.ts': ['../engine/runtime/b.ts'], ...to('engine/runtime/b.ts') },
  },
  {
    rule: 'api-sees-ports',
    files: { 'api/a.ts': ['../engine/postgres/b.ts'], ...to('engine/postgres/b.ts') },
  },
  { rule: 'pg-has-one-home', files: { 'workers/services/a.ts': ['pg'] } },
  { rule: 'kafkajs-has-one-home', files: { 'engine/runtime/a.ts': ['kafkajs'] } },
  { rule: 'fastify-has-one-home', files: { 'cli/a.ts': ['fastify'] } },
  {
    rule: 'production-runs-without-tests',
    files: { 'cli/a.ts': ['../test/b.ts'], ...to('test/b.ts') },
  },
  { rule: 'production-runs-without-dev-packages', files: { 'cli/a.ts': ['fast-check'] } },
  { rule: 'no-cycle', files: { 'api/a.ts': ['./b.ts'], 'api/b.ts': ['./a.ts'] } },
  { rule: 'resolvable', files: { 'cli/a.ts': ['./nowhere.ts'] } },
];

describe('import rules', () => {
  it.each(VIOLATIONS)('$rule fires on $files', async ({ rule, files }) => {
    expect(await rulesBrokenBy(files)).toEqual([rule]);
  });

  it('every rule has a violation here', () => {
    const broken = new Set(VIOLATIONS.map(({ rule }) => rule));
    expect(
      config.forbidden?.map(({ name }) => name).filter((name) => !broken.has(name ?? '')),
    ).toEqual([]);
  });

  it('keeps quiet on imports that point inward', async () => {
    const files = {
      'engine/core/a.ts': ['xstate', 'zod', './b.ts'],
      'engine/core/b.ts': [],
      'engine/ports.ts': ['./core/a.ts'],
      'engine/postgres/a.ts': ['pg', 'node:crypto', '../ports.ts', '../core/a.ts'],
      'engine/kafka/a.ts': ['kafkajs', '../ports.ts'],
      'engine/runtime/a.ts': ['../ports.ts', '../core/a.ts'],
      'definitions/a.ts': ['xstate', '../engine/core/a.ts'],
      'workers/a.ts': ['../engine/ports.ts', '../definitions/a.ts'],
      'workers/postgres/a.ts': ['pg', '../a.ts'],
      'api/a.ts': ['fastify', '../engine/ports.ts'],
      'cli/a.ts': [
        '../api/a.ts',
        '../engine/postgres/a.ts',
        '../engine/runtime/a.ts',
        '../workers/a.ts',
      ],
    };
    expect(await rulesBrokenBy(files)).toEqual([]);
  });

  it('lets modules name each other in types', async () => {
    await write('api/a.ts', `import type { B } from './b.ts';\nexport type A = B | 1;\n`);
    await write('api/b.ts', `import type { A } from './a.ts';\nexport type B = A[];\n`);
    expect((await checkImports(root)).findings).toEqual([]);
  });

  it('fails when there is nothing to look at, and counts what it looked at', async () => {
    expect((await checkImports(root)).findings).toEqual(['There is no .ts file to look at.']);
    await write('api/a.ts', 'export const a = 1;\n');
    await write('api/deep/b.ts', 'export const b = 1;\n');
    expect(await checkImports(root)).toEqual({ findings: [], modules: 2 });
  });

  it('fails when files or their imports are passed over in silence', async () => {
    await write('api/a.ts', "import { b } from './b.ts';\nexport const a = b;\n");
    await write('api/b.ts', 'export const b = 1;\n');
    const { findings, modules } = await checkImports(root, { ...config.options, exclude: 'b.ts$' });
    // b.ts is left out, and so a.ts comes out without the import that it has.
    expect(findings).toEqual(['2 of 2 files were not parsed: api/a.ts, api/b.ts']);
    expect(modules).toBe(0);
  });
});
