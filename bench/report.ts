/** Results as Markdown tables: medians over the rounds, with the range where there is more than one. */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { DURABILITY } from './durability.ts';
import { SYSTEMS, type System } from './options.ts';
import type { Results } from './results.ts';
import { SCENARIOS, type Measured } from './scenarios.ts';
import { spreadOf } from './stats.ts';

const DOCUMENT = new URL('../docs/BENCHMARKS.md', import.meta.url);
const BEGIN = '<!-- bench:begin -->';
const END = '<!-- bench:end -->';

export function tables(results: Results): string {
  const parts = [heading(results)];
  for (const scenario of SCENARIOS) {
    const rows = SYSTEMS.flatMap((system) => scenarioRow(results, system, scenario));
    if (rows.length === 0) continue;
    parts.push(
      `### ${TITLES[scenario]}\n\n` +
        "| | sagas/s | p50 ms | p99 ms | max ms | CPU ms a saga: own | stores | bytes a saga: engine's | bus, participants | cores used by others |\n" +
        `|---|---|---|---|---|---|---|---|---|---|\n${rows.join('\n')}`,
    );
  }
  for (const scenario of DURABILITY) {
    const text = durabilityTable(results, scenario);
    if (text !== null) parts.push(`### ${TITLES[scenario]}\n\n${text}`);
  }
  if (results.failures.length > 0) {
    const lines = results.failures.map(
      ({ round, system, scenario, error }) => `- round ${round}, ${system}, ${scenario}: ${error}`,
    );
    parts.push(`### Failed\n\n${lines.join('\n')}`);
  }
  return parts.join('\n\n');
}

const TITLES: { readonly [scenario: string]: string } = {
  throughput: 'Throughput, closed loop: three steps',
  compensated: 'Throughput, closed loop: third step rejected, two compensations',
  latency: 'One at a time',
  'open-50': 'Fixed rate of 50/s',
  'open-200': 'Fixed rate of 200/s',
  timers: 'Timers',
  recovery: 'Recovery from kill -9 of one of two engines',
  sleeping: 'Sleeping sagas',
  idle: 'Idle',
  rest: 'Starts by REST',
  soak: 'Memory over ten minutes of work',
  growth: 'A log that grows: few and many finished sagas in it',
};

function heading({ meta, runs }: Results): string {
  const versions = Object.entries(meta.versions).map(([name, version]) => `${name} ${version}`);
  const foreign = spreadOf(runs.map(({ measured }) => measured.foreign_cores));
  const others =
    runs.length === 0
      ? ''
      : ` Other processes of the machine used ${foreign.median.toFixed(2)} cores meanwhile (median; ${foreign.min.toFixed(2)}–${foreign.max.toFixed(2)}).`;
  return (
    `Run of ${meta.date.slice(0, 16)}Z at commit ${meta.commit}${meta.quick ? ' (**quick sizes**)' : ''}, ${meta.rounds} round(s), ` +
    `${meta.sizes.inFlight} in flight. Machine: ${meta.cpus} × ${meta.machine}, ${(meta.memory_bytes / 2 ** 30).toFixed(0)} GiB; ` +
    `load ${meta.load_before.toFixed(2)} before the run.${others} Versions: ${versions.join(', ')}.`
  );
}

function scenarioRow(results: Results, system: System, scenario: string): string[] {
  const measured = results.runs
    .filter((run) => run.system === system && run.scenario === scenario)
    .map((run) => run.measured);
  if (measured.length === 0) return [];
  const of = (read: (one: Measured) => number, digits: number): string =>
    cell(measured.map(read), digits);
  return [
    `| ${system} | ${of((m) => m.per_s, 0)} | ${of((m) => m.p50_ms, 1)} | ${of((m) => m.p99_ms, 1)} | ${of((m) => m.max_ms, 0)} | ` +
      `${of((m) => m.cpu_ms ?? NaN, 2)} | ${of(storeCpu, 2)} | ${of((m) => m.stored_bytes_by['log'] ?? 0, 0)} | ${of(otherBytes, 0)} | ${of((m) => m.foreign_cores, 2)} |`,
  ];
}

function storeCpu({ cpu_ms_by }: Measured): number {
  return (cpu_ms_by['postgres'] ?? NaN) + (cpu_ms_by['kafka'] ?? 0);
}

/** Of the bus and of the participants' tables. */
function otherBytes({ stored_bytes_by }: Measured): number {
  return (stored_bytes_by['bus'] ?? 0) + (stored_bytes_by['participants'] ?? 0);
}

function durabilityTable(results: Results, scenario: string): string | null {
  const runs = results.durability.filter((run) => run.scenario === scenario);
  const systems = SYSTEMS.filter((system) => runs.some((run) => run.system === system));
  if (systems.length === 0) return null;
  const names = [...new Set(runs.flatMap(({ measured }) => Object.keys(measured)))];
  const rows = names.map((name) => {
    const cells = systems.map((system) => {
      const values = runs
        .filter((run) => run.system === system)
        .map(({ measured }) => measured[name] ?? NaN);
      return cell(values, digitsFor(values));
    });
    return `| ${name} | ${cells.join(' | ')} |`;
  });
  return `| | ${systems.join(' | ')} |\n|---|${systems.map(() => '---').join('|')}|\n${rows.join('\n')}`;
}

function digitsFor(values: readonly number[]): number {
  const largest = Math.max(...values.map(Math.abs));
  if (largest >= 100 || values.every(Number.isInteger)) return 0;
  return largest >= 10 ? 1 : 2;
}

function cell(values: readonly number[], digits: number): string {
  const { median, min, max } = spreadOf(values);
  if (Number.isNaN(median)) return 'n/a';
  const show = (value: number): string =>
    value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return values.length === 1 ? show(median) : `${show(median)} (${show(min)}–${show(max)})`;
}

/** Puts the tables between the document's marks. */
export async function writeDocument(results: Results): Promise<void> {
  const text = await readFile(DOCUMENT, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin === -1 || end < begin) {
    throw new Error(`docs/BENCHMARKS.md has lost its marks ${BEGIN} and ${END}.`);
  }
  const head = text.slice(0, begin + BEGIN.length);
  const path = fileURLToPath(DOCUMENT);
  const whole = `${head}\n\n${tables(results)}\n\n${text.slice(end)}`;
  await writeFile(path, await format(whole, { ...(await resolveConfig(path)), filepath: path }));
}
