/**
 * The command line: `start` for everything in one process, `engine`, `worker`, `api` for production.
 *
 * Guards how a process ends: SIGTERM and SIGINT drain it and exit 0; a second one ends it at once; a
 * wrong setting exits 78 (EX_CONFIG), a service out of reach at start 69 (EX_UNAVAILABLE), a defect 70
 * (EX_SOFTWARE), so that an orchestrator can tell what restarting would help.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ERRORS, SagaxError } from '../engine/core/errors.ts';
import { migrate, startEmbeddedPostgres } from '../engine/postgres/index.ts';
import { isAuthRequired } from './access.ts';
import { Closers, connect } from './connect.ts';
import { startHealth } from './health.ts';
import { KEYS_USAGE, runKeys, UsageError } from './keys.ts';
import { HeapKeeper } from './memory.ts';
import { loadDefinitions } from './modules.ts';
import { startApi, startEngine } from './parts.ts';
import { defaultDataFolder } from './data-folder.ts';
import { describeSettings, parseSettings, type Settings } from './settings.ts';
import { welcome } from './welcome.ts';
import { startWorkers } from './workers.ts';

const HELP = `sagax: event-sourced saga orchestration

Usage: npm start | npm run <command> | npm run sagax -- <command>

  start     engine, participants and API in one process; without DATABASE_URL on an embedded
            Postgres, without KAFKA_BROKERS on the Postgres bus
  engine    an engine node; any number of them share the shards
  worker    participants: the services of SAGAX_WORKERS, or the examples (SAGAX_SERVICES chooses)
  api       the REST API
  migrate   bring the database's schema up to date, then exit
${KEYS_USAGE}
Settings, out of the environment:
${describeSettings()}

Exit codes: 0 drained, 64 wrong usage, 69 a service is out of reach, 70 a defect, 78 a wrong setting.
`;

const EXIT = { usage: 64, unavailable: 69, software: 70, config: 78 } as const;

type Run = (settings: Settings, closers: Closers) => Promise<void>;

const COMMANDS: { readonly [name: string]: Run } = {
  start: async (settings, closers) => {
    let url = settings.SAGAX_LOG_DATABASES?.[0] ?? settings.DATABASE_URL;
    if (url === undefined) {
      const folder = settings.SAGAX_DATA_DIR ?? (await defaultDataFolder());
      say(`starting an embedded Postgres in ${folder} …`);
      const embedded = await startEmbeddedPostgres({ folder: join(folder, 'postgres') });
      closers.add(() => embedded.stop());
      url = embedded.url;
    }
    const definitions = await loadDefinitions(settings.SAGAX_DEFINITIONS);
    const connections = await connect(settings, 'start', closers, url);
    await startEngine(connections, definitions, closers);
    if (runsWorkers(settings)) await startWorkers(connections, closers);
    const address = await startApi(connections, definitions, closers, 'start');
    const isOpen = !isAuthRequired(settings, 'start');
    const own = settings.SAGAX_DEFINITIONS === undefined ? [] : definitions;
    process.stdout.write(
      welcome(address, {
        bus: connections.bus.kind,
        isOpen,
        own,
        hasWorkers: runsWorkers(settings),
      }),
    );
  },
  engine: async (settings, closers) => {
    const definitions = await loadDefinitions(settings.SAGAX_DEFINITIONS);
    const connections = await connect(settings, 'engine', closers);
    await startHealth(connections, closers);
    await startEngine(connections, definitions, closers);
    connections.telemetry.log.info(
      { owner: connections.owner, bus: connections.bus.kind },
      'the engine runs',
    );
  },
  worker: async (settings, closers) => {
    const connections = await connect(settings, 'worker', closers);
    await startHealth(connections, closers);
    const services = await startWorkers(connections, closers);
    connections.telemetry.log.info({ owner: connections.owner, services }, 'the workers run');
  },
  api: async (settings, closers) => {
    const definitions = await loadDefinitions(settings.SAGAX_DEFINITIONS);
    const connections = await connect(settings, 'api', closers);
    const address = await startApi(connections, definitions, closers, 'api');
    if (!isAuthRequired(settings, 'api'))
      say('SAGAX_AUTH=off: the API asks nobody for credentials, and serves this machine alone');
    connections.telemetry.log.info({ owner: connections.owner, address }, 'the API listens');
  },
};

/** The examples' services have nothing to do for sagas of the user's. */
function runsWorkers(settings: Settings): boolean {
  return settings.SAGAX_WORKERS !== undefined || settings.SAGAX_DEFINITIONS === undefined;
}

function say(text: string): void {
  process.stderr.write(`sagax: ${text}\n`);
}

function exitCodeOf(error: unknown): number {
  if (!(error instanceof SagaxError)) return EXIT.software;
  switch (ERRORS[error.code].kind) {
    case 'config':
    case 'definition':
    case 'notFound':
      return EXIT.config;
    case 'retryable':
      return EXIT.unavailable;
    default:
      return EXIT.software;
  }
}

/** Resolves at the first SIGTERM or SIGINT; the second ends the process at once. */
function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    const first = (signal: NodeJS.Signals): void => {
      process.once('SIGTERM', () => process.exit(143));
      process.once('SIGINT', () => process.exit(130));
      resolve(signal);
    };
    process.once('SIGTERM', first);
    process.once('SIGINT', first);
  });
}

async function run(name: string, command: Run): Promise<number> {
  const closers = new Closers();
  const stopped = stopSignal();
  const heap = new HeapKeeper();
  heap.start();
  closers.add(() => Promise.resolve(heap.stop()));
  try {
    const settings = parseSettings(process.env);
    const started = command(settings, closers);
    await Promise.race([started, stopped]);
    const signal = await stopped;
    say(`${signal}: draining ${name} …`);
    // What is still starting must be up before it can be taken down.
    await started;
    await closers.close();
    say('stopped');
    return 0;
  } catch (error) {
    report(error);
    await closers.close().catch((second: unknown) => report(second));
    return exitCodeOf(error);
  }
}

function report(error: unknown): void {
  if (error instanceof SagaxError) say(`${error.code}: ${error.message}`);
  else say(error instanceof Error ? (error.stack ?? error.message) : String(error));
}

async function main(): Promise<number> {
  if (process.argv[2] === 'keys') return keys(process.argv.slice(3));
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: { help: { type: 'boolean', short: 'h' } },
    });
  } catch (error) {
    say(`${(error as Error).message}. See --help.`);
    return EXIT.usage;
  }
  const [name, ...rest] = parsed.positionals;
  if (parsed.values.help === true || name === 'help') {
    process.stdout.write(HELP);
    return 0;
  }
  if (name === 'migrate' && rest.length === 0) return migrateOnly();
  const command = name !== undefined && Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (name === undefined || command === undefined || rest.length > 0) {
    process.stderr.write(HELP);
    return EXIT.usage;
  }
  return run(name, command);
}

async function keys(args: readonly string[]): Promise<number> {
  try {
    const { out, note } = await runKeys(args, parseSettings(process.env));
    if (out !== '') process.stdout.write(`${out}\n`);
    if (note !== '') say(note);
    return 0;
  } catch (error) {
    if (error instanceof UsageError) {
      say(`${error.message}. See --help.`);
      return EXIT.usage;
    }
    report(error);
    return exitCodeOf(error);
  }
}

async function migrateOnly(): Promise<number> {
  try {
    const { DATABASE_URL: url, SAGAX_LOG_DATABASES: urls } = parseSettings(process.env);
    const databases = urls ?? (url === undefined ? [] : [url]);
    if (databases.length === 0) {
      throw new SagaxError(
        'CONFIG_INVALID',
        '`migrate` needs DATABASE_URL, or SAGAX_LOG_DATABASES for a log over several.',
      );
    }
    for (const each of databases) await migrate({ url: each });
    say('the schema is up to date');
    return 0;
  } catch (error) {
    report(error);
    return exitCodeOf(error);
  }
}

process.exitCode = await main();
// Nothing may keep a drained process alive; what is still open is idle sockets.
process.exit();
