/**
 * The habits that no other tool checks: short files, a header in each, nothing left undone, no paths
 * of one machine.
 *
 * Guards that a newcomer finds out what a file is for by opening it, on any machine. Findings name the
 * file, the line and the remedy. Usage: node scripts/tidy.ts
 */
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const MAX_LINES = 500;

const IGNORED_FOLDERS = new Set(['node_modules', '.git', '.sagax', 'coverage', 'peers']);
/** Recorded data: not written by hand, and as long as what was recorded. */
const IGNORED_FILES = new Set(['package-lock.json']);
const SOURCE = new Set(['.ts', '.mjs', '.js', '.sql', '.sh']);
const TEXT = new Set([...SOURCE, '.md', '.json', '.yaml', '.yml', '.html', '.css']);

/** Line patterns that are refused. Written so that this file doesn't match itself. */
const REFUSED: { pattern: RegExp; why: string; only: ReadonlySet<string> }[] = [
  {
    pattern: /\b(TO[D]O|FIX[M]E|XX[X]|HA[C]K)\b/,
    why: 'is a note of something undone: do it, or write down in docs/ what is left and why',
    only: SOURCE,
  },
  {
    pattern: /\b(describe|it|test|suite)(\.\w+)*\.only\b/,
    why: 'keeps all other tests from running',
    only: SOURCE,
  },
  {
    pattern: /(^|[\s'"`(=:])\/(work|root|Users|home\/(?!node\b)\w+)\//,
    why: 'is a path of one machine: use a path relative to the project, or os.tmpdir()',
    only: TEXT,
  },
];

/** @returns findings about one file, given as `path` (relative to the project) and its text. */
export function findingsIn(path: string, text: string): string[] {
  const extension = extname(path);
  const lines = text.split('\n');
  const findings = lines.flatMap((line, index) =>
    REFUSED.filter(({ only }) => only.has(extension)).flatMap(({ pattern, why }) => {
      const match = pattern.exec(line);
      return match === null ? [] : [`${path}:${index + 1}: ${match[0].trim()} ${why}`];
    }),
  );
  if (!SOURCE.has(extension)) return findings;
  const count = text.endsWith('\n') ? lines.length - 1 : lines.length;
  if (count > MAX_LINES) {
    findings.push(
      `${path}: ${count} lines; at most ${MAX_LINES}: split it by what its parts guard`,
    );
  }
  if (!hasHeader(lines, extension)) {
    findings.push(
      `${path}: no header comment: say at the top, in a sentence or more, what the file is for`,
    );
  }
  return findings;
}

/** A comment of at least four words before the first line of code. */
function hasHeader(lines: string[], extension: string): boolean {
  const first = lines.findIndex((line) => line.trim() !== '' && !line.startsWith('#!'));
  if (first === -1) return false;
  const opening = { '.sql': /^\s*(--|\/\*)/, '.sh': /^\s*#/ }[extension] ?? /^\s*(\/\*|\/\/)/;
  const rest = lines.slice(first);
  const end = rest.findIndex((line, n) =>
    n === 0 ? !opening.test(line) : !/^\s*(\*|\/\*|\/\/|--|#)/.test(line),
  );
  const comment = rest.slice(0, end === -1 ? undefined : end).join(' ');
  return (comment.match(/[A-Za-z]{2,}/g) ?? []).length >= 4;
}

function* filesUnder(root: string, folder = ''): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory() && !IGNORED_FOLDERS.has(entry.name)) yield* filesUnder(root, path);
    else if (entry.isFile() && TEXT.has(extname(path)) && !IGNORED_FILES.has(path)) yield path;
  }
}

if (import.meta.main) {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const files = [...filesUnder(root)];
  const findings = files.flatMap((path) =>
    findingsIn(path, readFileSync(join(root, path), 'utf8')),
  );
  for (const finding of findings) console.error(finding);
  console.log(`${files.length} files, ${findings.length} findings`);
  process.exitCode = findings.length === 0 && files.length > 0 ? 0 : 1;
}
