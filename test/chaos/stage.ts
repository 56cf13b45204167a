/**
 * A stage: Sagax as it is deployed (Postgres, a bus, API, engines, workers, each a process) under a steady load,
 * for a campaign to break things on; and `settle`, which lets all of it end and judges what is left.
 *
 * Guards that every campaign ends in the same judgement: the checker over log, topics and ledgers, and the
 * replay of every saga. What a campaign breaks it must have mended before it calls `settle`.
 */
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { definitions } from '../../definitions/index.ts';
import { KafkaServer } from '../support/kafka-server.ts';
import { check } from './checker/check.ts';
import type { CheckOptions, Evidence, Violation } from './checker/evidence.ts';
import { readEnds, readEvidence } from './checker/read.ts';
import { installWitness } from './checker/witness.ts';
import { Crew, type Role, type UnexpectedEnd } from './crew.ts';
import { Load, type LoadOptions } from './load.ts';
import { Dice } from '../support/dice.ts';
import { checkReplay, readKeptStates } from './replay.ts';
import { freePort, PostgresBox } from './servers.ts';

const TOPIC_PREFIX = 'chaos';
const COMMAND_PARTITIONS = 4;
const DEFAULT_SETTLE_LIMIT_MS = 240_000;
const LOOK_EVERY_MS = 250;
/** A repeat that is on its way arrives within this time, once everything else is at rest. */
const QUIET_MS = 2_000;

export interface StageOptions {
  bus: 'kafka' | 'postgres';
  /** Draws the load, and whatever the campaign draws. */
  seed: number;
  engines?: number;
  workers?: number;
  shards?: number;
  /** Databases that the log is spread over, all on one server. Default: one. */
  logDatabases?: number;
  /** Sagas started each second. */
  perS?: number;
  /** The n-th saga of the load. Default: a mixture of all shapes. */
  draw?: LoadOptions['draw'];
  /** Header of the load's requests, where the API asks for credentials. */
  authorization?: string;
  /** Further settings of all processes. */
  env?: { readonly [name: string]: string };
  /** Settings of one process, given the addresses of the servers: for proxies and clocks. */
  envOf?: (role: Role, n: number, servers: Servers) => { [name: string]: string };
  /** Called when the servers are up and before any process is: for proxies. What it returns is called at the end. */
  beforeProcesses?: (servers: Servers) => Promise<() => Promise<void>>;
  postgresSettings?: { [name: string]: string };
  kafkaProperties?: { [name: string]: string };
  /** Instead of a Postgres of the stage's own: whose URL processes and checker use, and whose stop ends it. */
  database?: { url: string; stop: () => Promise<void> };
}

export interface Servers {
  databaseUrl: string;
  /** The databases of the log; the first is `databaseUrl`. */
  logUrls: readonly string[];
  brokers: readonly string[] | null;
}

export interface Settled {
  violations: Violation[];
  /** Sagas by status, at the end. */
  ends: { [status: string]: number };
  evidence: Evidence;
  unexpected: readonly UnexpectedEnd[];
}

export class Stage {
  readonly crew: Crew;
  readonly load: Load;
  readonly random: Dice;
  readonly servers: Servers;
  /** Settings of all processes, for a campaign that starts some of its own. */
  readonly env: { readonly [name: string]: string };
  /** Null when the campaign brought a database of its own. */
  readonly postgres: PostgresBox | null;
  readonly kafka: KafkaServer | null;
  readonly #closers: (() => Promise<unknown>)[];
  readonly #apiName: { by: (() => string) | null };

  private constructor(parts: {
    crew: Crew;
    load: Load;
    random: Dice;
    servers: Servers;
    env: { readonly [name: string]: string };
    postgres: PostgresBox | null;
    kafka: KafkaServer | null;
    closers: (() => Promise<unknown>)[];
    apiName: { by: (() => string) | null };
  }) {
    this.crew = parts.crew;
    this.load = parts.load;
    this.random = parts.random;
    this.servers = parts.servers;
    this.env = parts.env;
    this.postgres = parts.postgres;
    this.kafka = parts.kafka;
    this.#closers = parts.closers;
    this.#apiName = parts.apiName;
  }

  /** On return all processes run, the witness is in place and the load goes on. */
  static async open(options: StageOptions): Promise<Stage> {
    const closers: (() => Promise<unknown>)[] = [];
    try {
      return await open(options, closers);
    } catch (error) {
      await closeAll(closers);
      throw error;
    }
    async function open(given: StageOptions, toClose: (() => Promise<unknown>)[]): Promise<Stage> {
      const { postgres, kafka, servers } = await startServers(given, toClose);
      const random = new Dice(given.seed);
      const port = await freePort();
      const env = envOf(given, servers, port);
      const crew = new Crew({
        env,
        envOf: (role, n) => given.envOf?.(role, n, servers) ?? {},
      });
      toClose.push(() => crew.close());
      const roles: Role[] = ['api'];
      for (let n = 0; n < (given.engines ?? 2); n++) roles.push('engine');
      for (let n = 0; n < (given.workers ?? 2); n++) roles.push('worker');
      await Promise.all(roles.map((role) => crew.hire(role)));
      await installWitness(servers.logUrls);
      const apiName: { by: (() => string) | null } = { by: null };
      const load = new Load({
        api: () => {
          const [api] = crew.of('api');
          const process = apiName.by?.() ?? `api 0 life ${api?.life}`;
          return { url: `http://127.0.0.1:${port}`, process };
        },
        ...(given.authorization === undefined ? {} : { authorization: given.authorization }),
        perS: given.perS ?? 20,
        random: new Dice(given.seed ^ 0x5a5a),
        ...(given.draw === undefined ? {} : { draw: given.draw }),
      });
      toClose.push(() => load.close());
      load.start();
      const closing = { closers: toClose, apiName };
      return new Stage({ crew, load, random, servers, env, postgres, kafka, ...closing });
    }
  }

  /** Names the process that listens as the API, while a campaign has it in place of the crew's. Null: the crew's. */
  nameApi(by: (() => string) | null): void {
    this.#apiName.by = by;
  }

  /**
   * Ends the load, waits until every saga has ended (bounded), then checks it all.
   * What did not come to rest in time is found by the checker, as I12 and I4.
   */
  async settle(
    options: CheckOptions & { limitMs?: number; say?: (text: string) => void } = {},
  ): Promise<Settled> {
    const giveUpAt = performance.now() + (options.limitMs ?? DEFAULT_SETTLE_LIMIT_MS);
    await Promise.all(this.crew.members.map((member) => this.crew.ready(member)));
    await this.load.stop();
    options.say?.(`${this.load.sagas} sagas acknowledged; waiting for their ends`);
    await this.#rest(giveUpAt);
    const evidence = await this.evidence();
    const kept = await readKeptStates(this.servers.logUrls);
    const violations = [
      ...check(evidence, options),
      ...checkReplay(evidence, definitions, kept),
      ...this.load.refused.map((what): Violation => ({
        invariant: 'I4',
        sagaId: null,
        what: `refused: ${what}`,
      })),
    ];
    const ends: { [status: string]: number } = {};
    for (const { status } of evidence.sagas) ends[status] = (ends[status] ?? 0) + 1;
    return { violations, ends, evidence, unexpected: this.crew.unexpected };
  }

  /** Resolves when nothing has moved for a while, or at the limit. */
  async #rest(giveUpAt: number): Promise<void> {
    await withPools(this.servers.logUrls, async (pools) => {
      let [before, since] = ['', performance.now()];
      while (performance.now() < giveUpAt) {
        const now = await this.#whereItStands(pools);
        if (now === null || now !== before) since = performance.now();
        before = now ?? '';
        if (performance.now() - since > QUIET_MS) return;
        await pause(LOOK_EVERY_MS);
      }
    });
  }

  /** Where topics and shards stand; null while sagas go on, or inputs and effects are on their way. */
  async #whereItStands(pools: readonly pg.Pool[]): Promise<string | null> {
    try {
      if (!(await areAtRest(pools, this.load.sagas))) return null;
      const ends = await readEnds({ ...this.servers, topicPrefix: TOPIC_PREFIX });
      const read = await Promise.all(
        pools.map((pool) =>
          pool.query<{ shard: number; next_offset: string }>(
            'SELECT shard, next_offset FROM sagax.shard_positions',
          ),
        ),
      );
      const isRead = read
        .flatMap(({ rows }) => rows)
        .every(
          ({ shard, next_offset }) =>
            Number(next_offset) >= (ends.get(`${TOPIC_PREFIX}.inbox/${shard}`) ?? 0),
        );
      return isRead
        ? JSON.stringify([...ends].map(([place, end]) => `${place} ${end}`).sort())
        : null;
    } catch {
      return null;
    }
  }

  /** What the run has left behind by now. */
  evidence(): Promise<Evidence> {
    return readEvidence({
      ...this.servers,
      topicPrefix: TOPIC_PREFIX,
      commandPartitions: COMMAND_PARTITIONS,
      accepted: this.load.accepted,
    });
  }

  async close(): Promise<void> {
    await closeAll(this.#closers);
  }
}

async function startServers(
  options: StageOptions,
  closers: (() => Promise<unknown>)[],
): Promise<{ postgres: PostgresBox | null; kafka: KafkaServer | null; servers: Servers }> {
  const { database } = options;
  const postgres =
    database === undefined ? await PostgresBox.start(options.postgresSettings ?? {}) : null;
  closers.push(() => (database ?? postgres)?.stop() ?? Promise.resolve());
  let kafka: KafkaServer | null = null;
  if (options.bus === 'kafka') {
    const server = new KafkaServer({ properties: options.kafkaProperties ?? {} });
    const onExit = (): void => server.stopOnExit();
    process.on('exit', onExit);
    closers.push(async () => {
      await server.stop();
      process.off('exit', onExit);
    });
    await server.start();
    kafka = server;
  }
  const databaseUrl = database?.url ?? postgres?.url ?? '';
  const logUrls = [databaseUrl];
  for (let n = 2; n <= (options.logDatabases ?? 1); n++) {
    logUrls.push(await createDatabase(databaseUrl, `log_${n}`));
  }
  const servers = { databaseUrl, logUrls, brokers: kafka?.brokers ?? null };
  const undo = await options.beforeProcesses?.(servers);
  if (undo !== undefined) closers.push(undo);
  return { postgres, kafka, servers };
}

function envOf(
  options: StageOptions,
  { databaseUrl, logUrls, brokers }: Servers,
  port: number,
): { [name: string]: string } {
  return {
    DATABASE_URL: databaseUrl,
    ...(logUrls.length === 1 ? {} : { SAGAX_LOG_DATABASES: logUrls.join(',') }),
    ...(brokers === null ? {} : { KAFKA_BROKERS: brokers.join(',') }),
    SAGAX_TOPIC_PREFIX: TOPIC_PREFIX,
    SAGAX_SHARDS: String(options.shards ?? 8),
    SAGAX_COMMAND_PARTITIONS: String(COMMAND_PARTITIONS),
    SAGAX_PORT: String(port),
    SAGAX_LOG_LEVEL: 'info',
    ...options.env,
  };
}

/** All acknowledged sagas have ended or are stuck, and every input and effect has gone its way. */
export async function areAtRest(pools: readonly pg.Pool[], sagas: number): Promise<boolean> {
  let ended = 0;
  for (const pool of pools) {
    const { rows } = await pool.query<{ ended: string; open: string; behind: string }>(
      `SELECT count(*) FILTER (WHERE ended_at_ms IS NOT NULL OR status = 'stuck') AS ended,
         count(*) FILTER (WHERE ended_at_ms IS NULL AND status <> 'stuck') AS open,
         (SELECT count(*) FROM sagax.shard_positions WHERE published_seq < next_seq - 1) AS behind
       FROM sagax.sagas`,
    );
    const [row] = rows;
    if (row === undefined || row.open !== '0' || row.behind !== '0') return false;
    ended += Number(row.ended);
  }
  return ended >= sagas;
}

/** A new, empty database on the server of another one. @returns its URL */
export async function createDatabase(url: string, name: string): Promise<string> {
  await withPool(url, (pool) => pool.query(`CREATE DATABASE ${name}`));
  return Object.assign(new URL(url), { pathname: `/${name}` }).toString();
}

export function withPool<T>(url: string, work: (pool: pg.Pool) => Promise<T>): Promise<T> {
  return withPools([url], ([pool]) => work(pool as pg.Pool));
}

export async function withPools<T>(
  urls: readonly string[],
  work: (pools: readonly pg.Pool[]) => Promise<T>,
): Promise<T> {
  const pools = urls.map((connectionString) => new pg.Pool({ connectionString, max: 2 }));
  for (const pool of pools) pool.on('error', () => undefined);
  try {
    return await work(pools);
  } finally {
    await Promise.all(pools.map((pool) => pool.end()));
  }
}

/** The last that was opened is closed first; one that fails does not keep the others open. */
async function closeAll(closers: (() => Promise<unknown>)[]): Promise<void> {
  for (const close of closers.splice(0).reverse()) {
    await close().catch((error: unknown) =>
      process.stderr.write(`chaos: closing failed: ${String(error)}\n`),
    );
  }
}
