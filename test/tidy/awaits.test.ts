/**
 * The check of crash points is given awaits that have none, in copies of the product's own files, and must say
 * so: a check that looks past an await would let the crash campaign miss it.
 */
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findSites, type Looked } from '../../scripts/await-sites.ts';

const projectRoot = fileURLToPath(new URL('../..', import.meta.url));
let root: string;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'sagax-awaits-'));
  await symlink(join(projectRoot, 'node_modules'), join(root, 'node_modules'));
  for (const name of ['engine', 'workers', 'definitions', 'package.json', 'tsconfig.json']) {
    await cp(join(projectRoot, name), join(root, name), { recursive: true });
  }
});
afterAll(() => rm(root, { recursive: true }));

const FILE = 'engine/runtime/wake-ups.ts';
const BEFORE = '      const due = await this.#deps.eventLog';
const HEAD = `import { once } from 'node:events';
declare const socket: EventTarget;
declare const unknown: () => Promise<void>;
declare const lines: AsyncIterable<string>;
`;

/** Looks at the project with lines of their own in the loop of the wake-ups, then puts the file back. */
async function planted(lines: string[]): Promise<{ looked: Looked; firstLine: number }> {
  const path = join(root, FILE);
  const text = await readFile(path, 'utf8');
  const at = text.indexOf(BEFORE);
  if (at === -1) throw new Error(`${FILE} no longer has the line "${BEFORE}".`);
  const head = HEAD + text.slice(0, at);
  try {
    await writeFile(path, `${head}${lines.join('\n')}\n${text.slice(at)}`);
    return { looked: findSites(root), firstLine: head.split('\n').length };
  } finally {
    await writeFile(path, text);
  }
}

/** What is planted, and what the check must say of its line. */
const REFUSED: [line: string, finding: RegExp][] = [
  ["await fetch('http://127.0.0.1');", /`fetch` gives a promise/],
  ["await once(socket, 'connect');", /`once` gives a promise/],
  [
    'await new Promise<void>((resolve) => setTimeout(resolve, 1));',
    /made in engine\/runtime\/wake-ups\.ts#scan may be settled by I\/O/,
  ],
  [
    'const gate = Promise.withResolvers<void>(); await gate.promise;',
    /made in engine\/runtime\/wake-ups\.ts#scan may be settled by I\/O/,
  ],
  ['await unknown();', /`unknown` gives a promise/],
  ['void unknown();', /`unknown` gives a promise/],
  ['const later = unknown(); await later;', /`unknown` gives a promise/],
  ['await (async () => unknown())();', /`unknown` gives a promise/],
  ["await import('node:http');", /`import` gives a promise/],
  ['for await (const _ of lines) break;', /`for await`/],
  ['await { then: (done: () => void) => done() };', /neither a call nor a promise in a variable/],
];
const NEW_SITES: [line: string, name: string][] = [
  ['await this.#deps.eventLog.load([]);', 'eventLog.load'],
  ['const log = this.#deps.eventLog; await log.load([]);', 'log.load'],
  ['void this.#deps.eventLog.load([]);', 'eventLog.load (2)'],
];

describe('the check of crash points', { timeout: 60_000 }, () => {
  let clean: Looked;
  beforeAll(() => {
    clean = findSites(root);
  }, 60_000);

  it('passes the product, looks at all of it, and each call has a name of its own', () => {
    expect(clean.findings).toEqual([]);
    expect(clean.unused).toEqual([]);
    const names = clean.sites.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const part of ['engine/runtime', 'engine/postgres', 'engine/kafka', 'workers']) {
      expect(names.filter((name) => name.startsWith(`${part}/`)).length).toBeGreaterThan(10);
    }
    expect(names).toContain('engine/runtime/wake-ups.ts#scan eventLog.dueWakeups');
  });

  it('fires on an await without a point, and names its line', async () => {
    const { looked, firstLine } = await planted(REFUSED.map(([line]) => line));
    for (const [index, [line, finding]] of REFUSED.entries()) {
      const place = `${FILE}:${firstLine + index}: `;
      const found = looked.findings.filter((text) => text.startsWith(place));
      expect(found, line).toEqual([expect.stringMatching(finding)]);
    }
    expect(looked.findings).toHaveLength(REFUSED.length);
    expect(looked.sites).toHaveLength(clean.sites.length);
  });

  it('gives new calls of a port points of their own, whatever they are called by', async () => {
    const { looked } = await planted(NEW_SITES.map(([line]) => line));
    expect(looked.findings).toEqual([]);
    const before = new Set(clean.sites.map(({ name }) => name));
    const added = looked.sites.map(({ name }) => name).filter((name) => !before.has(name));
    expect(added).toEqual(NEW_SITES.map(([, name]) => `${FILE}#scan ${name}`));
  });

  it('tells an entry of the rules that nothing needs any more', async () => {
    const path = join(root, 'workers/slots.ts');
    const text = await readFile(path, 'utf8');
    try {
      await writeFile(path, text.replaceAll('take()', 'takeOne()'));
      expect(findSites(root).unused).toEqual(['workers/slots.ts#take']);
    } finally {
      await writeFile(path, text);
    }
  });
});
