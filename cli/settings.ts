/**
 * All settings of a process, out of the environment, parsed once at start.
 *
 * Guards that a wrong setting stops the start with its name, its unit and an example, and that nothing
 * else reads the environment. `SETTINGS` is also what `--help` prints.
 */
import { z } from 'zod';
import { SagaxError } from '../engine/core/errors.ts';
import { namespaceSchema } from '../engine/core/wire.ts';
import { ACCESS_SETTINGS, accessProblems } from './settings-access.ts';

interface Setting {
  schema: z.ZodType;
  /** What it is, with its unit. */
  what: string;
  example: string;
  secret?: boolean;
}

const whole = (from: number, to: number): z.ZodType<number> =>
  z.string().regex(/^\d+$/, 'a whole number').transform(Number).pipe(z.int().min(from).max(to));
const flag = z.enum(['true', 'false']).transform((text) => text === 'true');
const list = z
  .string()
  .transform((text) => text.split(',').map((part) => part.trim()))
  .pipe(z.array(z.string().min(1)).min(1));
const name = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,63}$/i, 'letters, digits, ".", "_" and "-", at most 64');

export const SETTINGS = {
  DATABASE_URL: {
    schema: z
      .string()
      .regex(/^postgres(ql)?:\/\/.+/, 'a URL that begins with postgres://')
      .optional(),
    what: 'Postgres for the event log; without it `start` runs an embedded one',
    example: 'postgres://sagax:secret@db.internal:5432/sagax',
    secret: true,
  },
  SAGAX_LOG_DATABASES: {
    schema: list
      .pipe(
        z
          .array(z.string().regex(/^postgres(ql)?:\/\/.+/, 'URLs that begin with postgres://'))
          .max(64),
      )
      .optional(),
    what: 'Postgres databases that the event log is spread over by shard, comma-separated; number and order are fixed when they are first set up; the first is also DATABASE_URL',
    example:
      'postgres://sagax:secret@db-1.internal/sagax,postgres://sagax:secret@db-2.internal/sagax',
    secret: true,
  },
  KAFKA_BROKERS: {
    schema: list.pipe(z.array(z.string().regex(/^[^:\s]+:\d+$/, 'host:port'))).optional(),
    what: 'Kafka brokers, host:port, comma-separated; without it the bus runs on Postgres',
    example: 'kafka-1:9092,kafka-2:9092',
  },
  KAFKA_TLS: {
    schema: flag.default(false),
    what: 'speak TLS with the brokers: true or false',
    example: 'true',
  },
  KAFKA_TLS_CA_FILE: {
    schema: z.string().optional(),
    what: "file with the PEM of the authorities to trust; default: the system's",
    example: '/etc/ssl/kafka-ca.pem',
  },
  KAFKA_TLS_CERT_FILE: {
    schema: z.string().optional(),
    what: 'file with the PEM of the client certificate, for mutual TLS',
    example: '/etc/ssl/client.pem',
  },
  KAFKA_TLS_KEY_FILE: {
    schema: z.string().optional(),
    what: 'file with the PEM of the client key, for mutual TLS',
    example: '/etc/ssl/client.key',
  },
  KAFKA_SASL_MECHANISM: {
    schema: z.enum(['plain', 'scram-sha-256', 'scram-sha-512']).optional(),
    what: 'SASL mechanism: plain, scram-sha-256 or scram-sha-512',
    example: 'scram-sha-512',
  },
  KAFKA_SASL_USERNAME: { schema: z.string().optional(), what: 'SASL user', example: 'sagax' },
  KAFKA_SASL_PASSWORD: {
    schema: z.string().optional(),
    what: 'SASL password',
    example: 'secret',
    secret: true,
  },
  KAFKA_REPLICATION_FACTOR: {
    schema: whole(1, 32).optional(),
    what: "replicas of topics that are created; default: the broker's",
    example: '3',
  },
  SAGAX_TOPIC_PREFIX: {
    schema: name.default('sagax'),
    what: 'prefix of every topic',
    example: 'sagax',
  },
  SAGAX_SHARDS: {
    schema: whole(1, 4096).optional(),
    what: 'shards, and partitions of the inbox topic; fixed when the database is first set up (default then 16)',
    example: '64',
  },
  SAGAX_COMMAND_PARTITIONS: {
    schema: whole(1, 4096).default(16),
    what: 'partitions of each command topic; fixed when the topic is created',
    example: '16',
  },
  SAGAX_DATA_DIR: {
    schema: z.string().min(1).optional(),
    what: 'folder of the embedded Postgres; default: .sagax here (as root under a closed folder: one in /var/lib/sagax)',
    example: '.sagax',
  },
  SAGAX_HOST: {
    schema: z.string().min(1).default('127.0.0.1'),
    what: 'address that the API and the health port listen on; in a container 0.0.0.0 or its own address, for others to reach them; default: 127.0.0.1',
    example: '0.0.0.0',
  },
  SAGAX_PORT: {
    schema: whole(0, 65_535).default(8080),
    what: 'TCP port of the API; 0 for a free one',
    example: '8080',
  },
  ...ACCESS_SETTINGS,
  SAGAX_HEALTH_PORT: {
    schema: whole(0, 65_535).optional(),
    what: 'TCP port, on SAGAX_HOST, for /healthz, /readyz and /metrics of `engine` and `worker`; default: none',
    example: '9090',
  },
  SAGAX_NAMESPACES: {
    schema: list.pipe(z.array(namespaceSchema)).optional(),
    what: 'namespaces that the API serves beside `default`; default: any',
    example: 'blue,green',
  },
  SAGAX_DEFINITIONS: {
    schema: z.string().min(1).optional(),
    what: 'module whose `definitions` (an array of defineSaga results) are run; default: the examples',
    example: './my-sagas/index.ts',
  },
  SAGAX_WORKERS: {
    schema: z.string().min(1).optional(),
    what: 'module whose `services` (an array of defineService results) are run by `worker` and `start`; default: the examples (`start`: none beside SAGAX_DEFINITIONS)',
    example: './my-sagas/services.ts',
  },
  SAGAX_SERVICES: {
    schema: list.optional(),
    what: 'services of SAGAX_WORKERS, or of the examples, that this process runs, comma-separated; default: all',
    example: 'inventory,payments',
  },
  SAGAX_PARTICIPANT_DATABASE_URL: {
    schema: z
      .string()
      .regex(/^postgres(ql)?:\/\/.+/, 'a URL that begins with postgres://')
      .optional(),
    what: 'Postgres of the participants; default: DATABASE_URL (each service has a schema of its own)',
    example: 'postgres://shop:secret@db.internal:5432/shop',
    secret: true,
  },
  SAGAX_WORKER_CONCURRENCY: {
    schema: whole(1, 1_000).default(16),
    what: 'commands that one service runs at once in this process',
    example: '16',
  },
  SAGAX_DATABASE_CONNECTIONS: {
    schema: whole(2, 500).default(10),
    what: 'most connections of this process to the event log',
    example: '10',
  },
  SAGAX_SHARD_LEASE_MS: {
    schema: whole(1_000, 300_000).default(10_000),
    what: "milliseconds that a shard stays a node's without renewal",
    example: '10000',
  },
  SAGAX_NODE_LEASE_MS: {
    schema: whole(3_000, 300_000).default(30_000),
    what: "milliseconds that a Snowflake node id stays a process's without renewal",
    example: '30000',
  },
  SAGAX_CACHE_SAGAS: {
    schema: whole(100, 5_000_000).default(20_000),
    what: 'live sagas that an engine node keeps in memory',
    example: '20000',
  },
  SAGAX_RETENTION_DAYS: {
    schema: whole(1, 36_500).optional(),
    what: 'days after which ended sagas are dropped with their keys, week by week; default: never',
    example: '90',
  },
  SAGAX_DRAIN_MS: {
    schema: whole(0, 600_000).default(20_000),
    what: 'milliseconds that requests under way get to be answered after SIGTERM, then running handlers to end',
    example: '20000',
  },
  SAGAX_LOG_LEVEL: {
    schema: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
    what: 'lowest level that is logged: fatal, error, warn, info, debug, trace or silent',
    example: 'info',
  },
} as const satisfies Record<string, Setting>;

export type Settings = { [K in keyof typeof SETTINGS]: z.output<(typeof SETTINGS)[K]['schema']> };

/** Names that a service link has, whatever its value. */
const LINK_NAME =
  /^SAGAX_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/;
const LINK_URL = /^(tcp|udp|sctp):\/\//;

/**
 * Whether Kubernetes put the variable there: it tells each pod of every Service beside it, and one that is named
 * `sagax`, or begins with `sagax-`, gives names that look like ours, SAGAX_PORT among them.
 */
function isServiceLink(name: string, value: string | undefined): boolean {
  return (
    LINK_NAME.test(name) || (/^SAGAX_([A-Z0-9_]+_)?PORT$/.test(name) && LINK_URL.test(value ?? ''))
  );
}

/** @throws SagaxError CONFIG_INVALID naming every setting that is wrong, what it is and an example */
export function parseSettings(env: { readonly [name: string]: string | undefined }): Settings {
  const problems: string[] = [];
  const parsed: { [name: string]: unknown } = {};
  for (const [key, setting] of Object.entries<Setting>(SETTINGS)) {
    const given = env[key] === '' || isServiceLink(key, env[key]) ? undefined : env[key];
    const result = setting.schema.safeParse(given);
    if (result.success) {
      parsed[key] = result.data;
      continue;
    }
    const shown = setting.secret === true ? '(hidden)' : JSON.stringify(given);
    const why = result.error.issues.map(({ message }) => message).join('; ');
    problems.push(
      `${key}=${shown}: ${why}. It is ${setting.what}. Example: ${key}=${setting.example}`,
    );
  }
  for (const [key, value] of Object.entries(env)) {
    if (!key.startsWith('SAGAX_') || key.startsWith('SAGAX_TEST_')) continue;
    if (key in SETTINGS || isServiceLink(key, value)) continue;
    problems.push(`${key} is no setting. See --help for those there are.`);
  }
  const settings = parsed as Settings;
  if (problems.length === 0) problems.push(...combinations(settings));
  if (problems.length > 0) throw new SagaxError('CONFIG_INVALID', problems.join('\n'));
  return settings;
}

function combinations(settings: Settings): string[] {
  const problems: string[] = [];
  const { DATABASE_URL: database, SAGAX_LOG_DATABASES: log } = settings;
  if (log !== undefined && database !== undefined && log[0] !== database) {
    problems.push(
      'DATABASE_URL and SAGAX_LOG_DATABASES disagree: the first of the list is what DATABASE_URL names. Leave DATABASE_URL out.',
    );
  }
  const {
    KAFKA_SASL_MECHANISM: mechanism,
    KAFKA_SASL_USERNAME: user,
    KAFKA_SASL_PASSWORD: password,
  } = settings;
  if (
    (mechanism === undefined) !== (user === undefined) ||
    (user === undefined) !== (password === undefined)
  ) {
    problems.push(
      'KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD go together: set all three or none.',
    );
  }
  if (
    (settings.KAFKA_TLS_CERT_FILE === undefined) !==
    (settings.KAFKA_TLS_KEY_FILE === undefined)
  ) {
    problems.push('KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE go together: set both or none.');
  }
  problems.push(...accessProblems(settings));
  return problems;
}

/** The table that `--help` shows. */
export function describeSettings(): string {
  return Object.entries<Setting>(SETTINGS)
    .map(([key, { what, example }]) => `  ${key}\n      ${what}\n      e.g. ${key}=${example}`)
    .join('\n');
}
