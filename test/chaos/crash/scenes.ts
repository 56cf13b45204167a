/**
 * The scenes of a first start: who sets up what, on databases that are empty, or full of weeks that are over.
 *
 * Guards that each death has databases and topics that nobody else has touched: what one death left half done must be
 * mended by the next start, not by an earlier one.
 */
import type pg from 'pg';
import { composeSnowflake } from '../../../engine/core/ids.ts';
import { startProcess } from '../../e2e/processes.ts';
import { createDatabase, withPool, type Servers } from '../stage.ts';
import type { VictimRole } from './gun.ts';

export interface Scene {
  readonly name: string;
  readonly role: VictimRole;
  readonly databases: 1 | 2;
  readonly bus: 'kafka' | 'postgres';
  /** Whether the databases hold ended sagas of a week that is to be dropped; then the victim is up when it comes to it. */
  readonly isUpkeep: boolean;
}

const scene = (name: string, role: VictimRole, changes: Partial<Scene> = {}): Scene => ({
  ...{ name, role, databases: 1, bus: 'postgres', isUpkeep: false },
  ...changes,
});

/** In this order: a point is died at in the first scene that passes it. */
export const scenes: readonly Scene[] = [
  scene('migrate', 'migrate'),
  scene('engine', 'engine'),
  scene('worker', 'worker'),
  scene('engine, two databases', 'engine', { databases: 2 }),
  scene('engine, Kafka', 'engine', { bus: 'kafka' }),
  scene('upkeep', 'engine', { isUpkeep: true }),
  scene('upkeep, two databases', 'engine', { isUpkeep: true, databases: 2 }),
];

const SHARDS = 4;
export const COMMAND_PARTITIONS = 2;
const WEEK_MS = 7 * 24 * 3_600_000;
/** Older than the retention by weeks, and within one partition. */
const OLD_WEEKS = 6;
const OLD_SAGAS = 20;

export interface Ground {
  readonly urls: readonly string[];
  readonly topicPrefix: string;
  readonly brokers: readonly string[] | null;
  readonly env: { readonly [name: string]: string };
}

/** Makes databases for one death after another, on the server of a stage. */
export class Grounds {
  readonly #servers: Servers;
  #made = 0;
  /** Databases with a week that is over, to copy, by how many there are. */
  readonly #old = new Map<number, readonly string[]>();

  constructor(servers: Servers) {
    this.#servers = servers;
  }

  async make(given: Scene): Promise<Ground> {
    if (!given.isUpkeep) return this.#empty(given);
    let templates = this.#old.get(given.databases);
    if (templates === undefined) {
      templates = await this.#fill(given);
      this.#old.set(given.databases, templates);
    }
    return this.#ground(given, templates);
  }

  async drop({ urls }: Ground): Promise<void> {
    for (const url of urls) {
      // A process that was killed may still have a backend that ends.
      const name = new URL(url).pathname.slice(1);
      await withPool(this.#servers.databaseUrl, (pool) =>
        pool.query(`DROP DATABASE ${name} WITH (FORCE)`),
      );
    }
  }

  #empty(given: Scene): Promise<Ground> {
    return this.#ground(given, []);
  }

  async #ground(given: Scene, templates: readonly string[]): Promise<Ground> {
    const name = `first_${++this.#made}`;
    const urls: string[] = [];
    for (let n = 0; n < given.databases; n++) {
      const template = templates[n];
      const as = template === undefined ? `${name}_${n}` : `${name}_${n} TEMPLATE ${template}`;
      const url = await createDatabase(this.#servers.databaseUrl, as);
      urls.push(Object.assign(new URL(url), { pathname: `/${name}_${n}` }).toString());
    }
    const brokers = given.bus === 'kafka' ? this.#servers.brokers : null;
    const env = {
      DATABASE_URL: urls[0] ?? '',
      ...(urls.length === 1 ? {} : { SAGAX_LOG_DATABASES: urls.join(',') }),
      ...(brokers === null ? {} : { KAFKA_BROKERS: brokers.join(',') }),
      ...(given.isUpkeep ? { SAGAX_RETENTION_DAYS: '7' } : {}),
      SAGAX_TOPIC_PREFIX: name,
      SAGAX_SHARDS: String(SHARDS),
      SAGAX_COMMAND_PARTITIONS: String(COMMAND_PARTITIONS),
      SAGAX_PORT: '0',
      // What the dead one held is free before the next start would wait for it.
      SAGAX_SHARD_LEASE_MS: '2000',
      SAGAX_DRAIN_MS: '5000',
    };
    return { urls, topicPrefix: name, brokers, env };
  }

  /** Databases that were set up and used six weeks ago. @returns their names */
  async #fill(given: Scene): Promise<string[]> {
    const { urls, env } = await this.#empty(given);
    const { SAGAX_RETENTION_DAYS: _, ...first } = env;
    const engine = startProcess('engine', first);
    await engine.line(/the engine runs/);
    engine.kill('SIGTERM');
    await engine.ended;
    for (const [place, url] of urls.entries()) {
      await withPool(url, (pool) => addOldWeek(pool, place));
    }
    return urls.map((url) => new URL(url).pathname.slice(1));
  }
}

/** Ended sagas in the default partition, as they are when nobody has made their week's in time. */
async function addOldWeek(pool: pg.Pool, shard: number): Promise<void> {
  const first = composeSnowflake(Date.now() - OLD_WEEKS * WEEK_MS, 0, 0);
  const ids = `SELECT $1::bigint + n AS id, n FROM generate_series(1, ${OLD_SAGAS}) AS n`;
  await pool.query(
    `INSERT INTO sagax.sagas (saga_id, namespace, definition, definition_version, status, state, stream_version,
       started_at_ms, updated_at_ms, ended_at_ms)
     SELECT id, 'default', 'order', 1, 'completed', 'done', 1, 0, 0, 0 FROM (${ids}) AS ids`,
    [first],
  );
  // Below the first shard_seq there is: they are on the bus since long, and no position counts them.
  await pool.query(
    `INSERT INTO sagax.events (saga_id, namespace, stream_version, shard, shard_seq, epoch, at_ms, type, event)
     SELECT id, 'default', 1, $2, -n, 0, 0, 'SagaCompleted', '{"type":"SagaCompleted"}' FROM (${ids}) AS ids`,
    [first, shard],
  );
  // Start keys of the whole log are in its first database.
  if (shard > 0) return;
  await pool.query(
    `INSERT INTO sagax.start_keys (namespace, definition, kind, key, saga_id, fingerprint)
     SELECT 'default', 'order', 'idempotency', 'old-' || n, id, '' FROM (${ids}) AS ids`,
    [first],
  );
}

/** Rows that are left of weeks that are over, in all of the databases; 0 when upkeep has done its work. */
export async function oldRows({ urls }: Ground): Promise<number> {
  const before = composeSnowflake(Date.now() - (OLD_WEEKS - 1) * WEEK_MS, 0, 0);
  let sum = 0;
  for (const url of urls) {
    const { rows } = await withPool(url, (pool) =>
      pool.query<{ n: string }>(
        `SELECT (SELECT count(*) FROM sagax.sagas WHERE saga_id < $1)
           + (SELECT count(*) FROM sagax.events WHERE saga_id < $1)
           + (SELECT count(*) FROM sagax.start_keys WHERE saga_id < $1) AS n`,
        [before],
      ),
    );
    sum += Number(rows[0]?.n);
  }
  return sum;
}
