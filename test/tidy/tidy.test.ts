/** Each tidy rule is broken once and must say so; a tidy file must pass. */
import { describe, expect, it } from 'vitest';
import { findingsIn, MAX_LINES } from '../../scripts/tidy.ts';

const HEADER = '/** What this file is for. */\n';
const undone = ['TO', 'DO'].join('');
const only = ['.on', 'ly'].join('');
const machinePath = (path: string): string => ['', ...path.split(' '), ''].join('/');

describe('tidy', () => {
  it('passes a tidy file of each kind', () => {
    expect(findingsIn('a.ts', `${HEADER}export const a = 1;\n`)).toEqual([]);
    expect(findingsIn('a.mjs', `#!/usr/bin/env node\n${HEADER}export const a = 1;\n`)).toEqual([]);
    expect(findingsIn('a.sql', '-- What these tables hold.\nCREATE TABLE a ();\n')).toEqual([]);
    expect(findingsIn('a.md', '# Anything\n')).toEqual([]);
    expect(findingsIn('a.ts', `${HEADER}const home = '${machinePath('home node')}app';\n`)).toEqual(
      [],
    );
  });

  it.each([
    ['a.ts', 'export const a = 1;\n'],
    ['a.ts', ''],
    ['a.ts', '/** short */\nexport const a = 1;\n'],
    ['a.sql', 'CREATE TABLE a ();\n'],
    ['a.ts', 'export const a = 1;\n// A comment that comes too late.\n'],
  ])('wants a header in %s: %j', (path, text) => {
    expect(findingsIn(path, text)).toEqual([expect.stringMatching(/^a\.\w+: no header comment/)]);
  });

  it('counts lines up to the limit and not beyond', () => {
    const lines = (count: number): string => HEADER + '\n'.repeat(count - 1);
    expect(findingsIn('a.ts', lines(MAX_LINES))).toEqual([]);
    expect(findingsIn('a.ts', lines(MAX_LINES + 1))).toEqual([
      expect.stringContaining('501 lines'),
    ]);
    expect(findingsIn('a.md', lines(MAX_LINES + 1))).toEqual([]);
  });

  it.each([
    [`// ${undone}: later`, 'undone'],
    [`describe${only}('a', () => {});`, 'other tests'],
    [`it.concurrent${only}('a', () => {});`, 'other tests'],
    [`const path = '${machinePath('work x')}y';`, 'one machine'],
    [`// see ${machinePath('home someone')}notes`, 'one machine'],
    [`const path = "${machinePath('Users someone')}y";`, 'one machine'],
  ])('refuses %s', (line, why) => {
    expect(findingsIn('a.ts', `${HEADER}${line}\n`)).toEqual([
      expect.stringMatching(new RegExp(`^a\\.ts:2: .*${why}`)),
    ]);
  });

  it('refuses paths of one machine in documents too', () => {
    expect(findingsIn('docs/a.md', `Look in ${machinePath('root x')}y.\n`)).toHaveLength(1);
  });
});
