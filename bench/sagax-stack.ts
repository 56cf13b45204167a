/**
 * Sagax as it is deployed: Postgres, a bus, engine, worker and driver, each a process of its own.
 *
 * Guards that it runs on its defaults but for what is named here, so that the figures are those that a
 * user gets. Everything is new: server, database, topics.
 */
import { fileURLToPath } from 'node:url';
import { Driver } from './driver-client.ts';
import { startProcess, type BenchProcess } from './processes.ts';
import { startKafka, startPostgres, type KafkaBroker, type PostgresServer } from './servers.ts';
import { Cleanup, type ByProcess, type Stack } from './stack.ts';

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
const TOPIC_PREFIX = 'bench';
/** Commands at once, and connections of the participants; the same for every system. */
export const PARTICIPANT_CONNECTIONS = 20;

export type BusChoice = 'postgres' | 'kafka' | 'kafka-fsync';

export interface SagaxOptions {
  bus: BusChoice;
  engines?: number;
  worker?: boolean;
  /** CPU profiles of engine and worker are written here when they stop; also counts statements. */
  profileFolder?: string;
  /** Further settings of the engine. */
  env?: { readonly [name: string]: string };
}

export class SagaxStack implements Stack {
  readonly driver: Driver;
  readonly own: BenchProcess[];
  readonly postgres: PostgresServer;
  readonly #kafka: KafkaBroker | null;
  readonly #env: { readonly [name: string]: string };
  readonly #cleanup: Cleanup;

  static async start(options: SagaxOptions): Promise<SagaxStack> {
    const cleanup = new Cleanup();
    try {
      return await open(options, cleanup);
    } catch (error) {
      await cleanup.run();
      throw error;
    }
  }

  constructor(parts: {
    driver: Driver;
    own: BenchProcess[];
    postgres: PostgresServer;
    kafka: KafkaBroker | null;
    env: { readonly [name: string]: string };
    cleanup: Cleanup;
  }) {
    this.driver = parts.driver;
    this.own = parts.own;
    this.postgres = parts.postgres;
    this.#kafka = parts.kafka;
    this.#env = parts.env;
    this.#cleanup = parts.cleanup;
  }

  get stores(): { readonly [role: string]: number } {
    return {
      postgres: this.postgres.pid,
      ...(this.#kafka === null ? {} : { kafka: this.#kafka.pid }),
    };
  }

  /** Engine tables, the bus's tables, the participants' tables; Kafka's log; all that was written ahead (`wal`). */
  async stored(): Promise<ByProcess> {
    const { rows } = await this.postgres.pool.query<{ what: string; bytes: string }>(`
      SELECT CASE WHEN n.nspname = 'bench' THEN 'participants' WHEN c.relname LIKE 'bus\\_%' THEN 'bus' ELSE 'log' END AS what,
        sum(pg_total_relation_size(c.oid)) AS bytes
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'r' AND n.nspname IN ('sagax', 'bench') GROUP BY 1`);
    const stored: ByProcess = Object.fromEntries(
      rows.map(({ what, bytes }) => [what, Number(bytes)]),
    );
    if (this.#kafka !== null) stored['bus'] = await this.#kafka.logBytes();
    const wal = await this.postgres.pool.query<{ bytes: string }>(
      `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS bytes`,
    );
    stored['wal'] = Number(wal.rows[0]?.bytes);
    return stored;
  }

  /** @returns the URL of a REST API that is started now */
  async startApi(): Promise<string> {
    const api = await startMain('api', { ...this.#env, SAGAX_PORT: '0' }, /"address":"([^"]+)"/);
    this.own.push(api);
    return api.ready[1] ?? '';
  }

  stop(): Promise<void> {
    return this.#cleanup.run();
  }
}

async function open(options: SagaxOptions, cleanup: Cleanup): Promise<SagaxStack> {
  const { bus, engines = 1, worker = true, profileFolder } = options;
  const postgres = await startPostgres(profileFolder !== undefined);
  cleanup.add(() => postgres.stop());
  const kafka = bus === 'postgres' ? null : await startKafka(bus === 'kafka-fsync');
  if (kafka !== null) cleanup.add(() => kafka.stop());
  const env = {
    DATABASE_URL: postgres.url,
    ...(kafka === null ? {} : { KAFKA_BROKERS: kafka.brokers.join(',') }),
    SAGAX_TOPIC_PREFIX: TOPIC_PREFIX,
    SAGAX_DEFINITIONS: path('./definitions.ts'),
    // Loopback alone; the cost of credentials is measured by itself.
    SAGAX_AUTH: 'off',
    SAGAX_WORKER_CONCURRENCY: String(PARTICIPANT_CONNECTIONS),
    ...options.env,
  };
  const flags =
    profileFolder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profileFolder}`];
  const own: BenchProcess[] = [];
  cleanup.add(() => Promise.all(own.map((one) => one.stop())));
  for (let n = 0; n < engines; n++) {
    own.push(await startMain('engine', env, /the engine runs/, flags));
  }
  if (worker) {
    const args = [...flags, path('./worker.ts')];
    own.push(
      await startProcess({
        role: 'worker',
        command: process.execPath,
        args,
        env,
        ready: /the workers run/,
      }),
    );
  }
  const driver = await Driver.open({
    kind: 'sagax',
    databaseUrl: postgres.url,
    brokers: kafka?.brokers ?? null,
    topicPrefix: TOPIC_PREFIX,
  });
  cleanup.add(() => driver.close());
  return new SagaxStack({ driver, own, postgres, kafka, env, cleanup });
}

function startMain(
  role: string,
  env: { readonly [name: string]: string },
  ready: RegExp,
  flags: readonly string[] = [],
): Promise<BenchProcess> {
  const args = [...flags, path('../cli/main.ts'), role];
  return startProcess({ role, command: process.execPath, args, env, ready });
}
