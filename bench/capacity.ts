/**
 * The capacity model of docs/SCALING.md: what a saga was measured to cost, times a rate.
 *
 * Guards that the document holds no figure that was not measured, and says from which run each comes.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import type { Results } from './results.ts';
import type { Measured } from './scenarios.ts';
import { spreadOf } from './stats.ts';

const DOCUMENT = new URL('../docs/SCALING.md', import.meta.url);
const BEGIN = '<!-- capacity:begin -->';
const END = '<!-- capacity:end -->';

/** Part of a core or a disk that is planned with: the rest is for peaks, vacuum, and a node that is away. */
const UTILISATION = 0.6;
/** Cores of one Postgres server, and bytes of WAL a second that its disk and its standby take. */
const POSTGRES_CORES = 16;
const POSTGRES_WAL_BYTES_PER_S = 100e6;
const KAFKA_CORES = 8;
/** So that a node that dies leaves its shards to several others. */
const SHARDS_PER_NODE = 4;
const LEAST_SHARDS = 16;
/** The start; each of three steps' command and reply. */
const MESSAGES = 7;
const RATES = [10, 1_000, 100_000];

export interface Costs {
  engine_ms: number;
  worker_ms: number;
  postgres_ms: number;
  /** 0 on the Postgres bus. */
  kafka_ms: number;
  wal_bytes: number;
  log_bytes: number;
  participant_bytes: number;
  bus_bytes: number;
}

export interface Needs {
  engines: number;
  workers: number;
  shards: number;
  databases: number;
  kafkaBrokers: number;
  messages_per_s: number;
  wal_mb_per_s: number;
  log_gb_per_day: number;
}

/** What a rate needs, by the costs of one saga. */
export function needsOf(costs: Costs, per_s: number): Needs {
  const cores = (ms: number): number => (per_s * ms) / 1_000 / UTILISATION;
  // A JavaScript process runs on one core.
  const engines = Math.max(2, Math.ceil(cores(costs.engine_ms)));
  const wal_bytes_per_s = per_s * costs.wal_bytes;
  const byCpu = cores(costs.postgres_ms) / POSTGRES_CORES;
  const byDisk = wal_bytes_per_s / UTILISATION / POSTGRES_WAL_BYTES_PER_S;
  const shards = 2 ** Math.ceil(Math.log2(Math.max(LEAST_SHARDS, engines * SHARDS_PER_NODE)));
  return {
    engines,
    workers: Math.max(2, Math.ceil(cores(costs.worker_ms))),
    shards,
    databases: Math.max(1, Math.ceil(Math.max(byCpu, byDisk))),
    // Three, so that one may be away with every message still on two.
    kafkaBrokers:
      costs.kafka_ms === 0 ? 0 : Math.max(3, Math.ceil(cores(costs.kafka_ms) / KAFKA_CORES)),
    messages_per_s: per_s * MESSAGES,
    wal_mb_per_s: wal_bytes_per_s / 1e6,
    log_gb_per_day: (per_s * costs.log_bytes * 86_400) / 1e9,
  };
}

/** Median costs of an order of three steps in the closed loop; null when the system was not measured. */
function costsOf(results: Results, system: string): (Costs & { foreign_cores: number }) | null {
  const runs = results.runs
    .filter((run) => run.system === system && run.scenario === 'throughput')
    .map(({ measured }) => measured);
  if (runs.length === 0) return null;
  const of = (read: (one: Measured) => number | undefined): number =>
    spreadOf(runs.map((one) => read(one) ?? 0)).median;
  return {
    engine_ms: of(({ cpu_ms_by }) => cpu_ms_by['engine']),
    worker_ms: of(({ cpu_ms_by }) => cpu_ms_by['worker']),
    postgres_ms: of(({ cpu_ms_by }) => cpu_ms_by['postgres']),
    kafka_ms: of(({ cpu_ms_by }) => cpu_ms_by['kafka']),
    wal_bytes: of(({ stored_bytes_by }) => stored_bytes_by['wal']),
    log_bytes: of(({ stored_bytes_by }) => stored_bytes_by['log']),
    participant_bytes: of(({ stored_bytes_by }) => stored_bytes_by['participants']),
    bus_bytes: of(({ stored_bytes_by }) => stored_bytes_by['bus']),
    foreign_cores: of(({ foreign_cores }) => foreign_cores),
  };
}

const show = (value: number, digits = 0): string =>
  value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });

function costTable(costs: readonly (Costs & { system: string; foreign_cores: number })[]): string {
  const rows = costs.map(
    (c) =>
      `| ${c.system} | ${show(c.engine_ms, 2)} | ${show(c.worker_ms, 2)} | ${show(c.postgres_ms, 2)} | ${show(c.kafka_ms, 2)} | ` +
      `${show(c.wal_bytes)} | ${show(c.log_bytes)} | ${show(c.participant_bytes)} | ${show(c.bus_bytes)} | ${MESSAGES} | ${show(c.foreign_cores, 2)} |`,
  );
  return (
    '| one saga | engine CPU ms | worker CPU ms | Postgres CPU ms | Kafka CPU ms | WAL bytes | log bytes | participants bytes | bus bytes | messages | cores used by others |\n' +
    `|---|---|---|---|---|---|---|---|---|---|---|\n${rows.join('\n')}`
  );
}

function needsTable(costs: Costs): string {
  const rows = RATES.map((rate) => {
    const n = needsOf(costs, rate);
    return (
      `| ${show(rate)} | ${show(n.engines)} | ${show(n.workers)} | ${show(n.shards)} | ${show(n.databases)} | ` +
      `${show(n.kafkaBrokers)} | ${show(n.messages_per_s)} | ${show(n.wal_mb_per_s, 1)} | ${show(n.log_gb_per_day, 1)} |`
    );
  });
  return (
    `| sagas/s | engine nodes | worker processes | shards | log databases of ${POSTGRES_CORES} cores | Kafka brokers of ${KAFKA_CORES} cores | messages/s | WAL MB/s | log GB a day |\n` +
    `|---|---|---|---|---|---|---|---|---|\n${rows.join('\n')}`
  );
}

/** Puts the model between the document's marks. @throws when the run has no throughput of Sagax */
export async function writeCapacity(results: Results): Promise<void> {
  const costs = ['sagax-kafka', 'sagax-postgres'].flatMap((system) => {
    const found = costsOf(results, system);
    return found === null ? [] : [{ system, ...found }];
  });
  const [basis] = costs;
  if (basis === undefined) {
    throw new Error('The run has no throughput of sagax-kafka or sagax-postgres to reckon with.');
  }
  const { meta } = results;
  const source =
    `Measured on ${meta.date.slice(0, 16)}Z at commit ${meta.commit}${meta.quick ? ' (**quick sizes**)' : ''}: closed loop, ` +
    `${meta.sizes.inFlight} in flight, ${meta.cpus} × ${meta.machine}.`;
  const reckoned = `Reckoned from the row of ${basis.system}, with ${UTILISATION * 100} % of each core and disk used:`;
  const part = [source, costTable(costs), reckoned, needsTable(basis)].join('\n\n');
  const text = await readFile(DOCUMENT, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin === -1 || end < begin) {
    throw new Error(`docs/SCALING.md has lost its marks ${BEGIN} and ${END}.`);
  }
  const path = fileURLToPath(DOCUMENT);
  const whole = `${text.slice(0, begin + BEGIN.length)}\n\n${part}\n\n${text.slice(end)}`;
  await writeFile(path, await format(whole, { ...(await resolveConfig(path)), filepath: path }));
}
