/** Results as a table in docs/RELIABILITY.md, between its marks. */
import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import type { ResultRow } from './campaign.ts';

const DOCUMENT = new URL('../../docs/RELIABILITY.md', import.meta.url);
const BEGIN = '<!-- chaos:begin -->';
const END = '<!-- chaos:end -->';

export interface Results {
  date: string;
  commit: string;
  machine: string;
  rows: ResultRow[];
}

export function emptyResults(): Results {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const model = cpus()[0]?.model ?? 'unknown CPU';
  const machine = `${availableParallelism()} × ${model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB`;
  return { date: new Date().toISOString(), commit, machine, rows: [] };
}

/** Of runs of some campaigns each, all rows in the order of `names`; of a campaign that was run again the last one. */
export function merge(runs: readonly Results[], names: readonly string[]): Results {
  const sorted = runs.toSorted((a, b) => (a.date < b.date ? -1 : 1));
  const [first] = sorted;
  const last = sorted.at(-1);
  if (first === undefined || last === undefined) throw new Error('There is no run to merge.');
  const rows = new Map(sorted.flatMap((run) => run.rows.map((row) => [row.campaign, row])));
  const all = (of: (run: Results) => string): string => [...new Set(sorted.map(of))].join(', ');
  return {
    date: last.date,
    commit: all(({ commit }) => commit),
    machine: all(({ machine }) => machine),
    rows: names.flatMap((name) => rows.get(name) ?? []),
  };
}

export function table({ date, commit, machine, rows }: Results): string {
  const lines = rows.map((row) => {
    const ends = Object.entries(row.ends).map(([status, n]) => `${n} ${status}`);
    const notes = Object.entries(row.notes).map(([name, value]) => `${name} ${value}`);
    const violations = row.error === null ? String(row.violations.length) : 'no result';
    return `| ${row.campaign} | ${row.what} | ${row.faults} | ${row.sagas} (${ends.join(', ')}) | ${violations} | ${row.unexpected_ends.length} | ${notes.join(', ')} | ${row.duration_s.toFixed(0)} | \`${row.command}\` |`;
  });
  return (
    `Run of ${date.slice(0, 16)}Z at commit ${commit} on ${machine}.\n\n` +
    '| campaign | faults | injected | sagas (ends) | violations | unexpected ends | notes | s | command |\n' +
    `|---|---|---|---|---|---|---|---|---|\n${lines.join('\n')}`
  );
}

/** Puts the table between the document's marks. @throws Error when the marks are lost */
export async function writeDocument(results: Results): Promise<void> {
  const text = await readFile(DOCUMENT, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin === -1 || end < begin)
    throw new Error(`docs/RELIABILITY.md has lost its marks ${BEGIN} and ${END}.`);
  const path = fileURLToPath(DOCUMENT);
  const whole = `${text.slice(0, begin + BEGIN.length)}\n\n${table(results)}\n\n${text.slice(end)}`;
  await writeFile(path, await format(whole, { ...(await resolveConfig(path)), filepath: path }));
}
