/**
 * A primary with a synchronous standby, behind one address that is moved at a failover.
 *
 * Guards that the standby is a real one (a base backup and streaming replication), and that a commit is
 * acknowledged by it before it is acknowledged to a client: what was acknowledged must outlive the primary.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  writeFile,
  chmod,
  chown,
} from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { freePort, PostgresBox } from './servers.ts';

const STANDBY = 'chaos_standby';
const LIMIT_MS = 60_000;
/** Neither belongs to a copy: who runs on the data, and log and slots of the original. */
const NOT_COPIED = new Set(['postmaster.pid', 'postmaster.opts', 'pg_wal', 'pg_replslot']);

interface Node {
  folder: string;
  dataDir: string;
  url: string;
  /** Ends it at once. */
  crash(): Promise<void>;
  /** Ends it and removes its data. */
  remove(): Promise<void>;
}

export class Cluster {
  /** Address of whatever is the primary. */
  readonly url: string;
  readonly #door: Door;
  #primary: Node;
  #standby: Node | null = null;

  private constructor(primary: Node, door: Door) {
    this.#primary = primary;
    this.#door = door;
    const url = new URL(primary.url);
    url.port = String(door.port);
    this.url = url.toString();
  }

  static async start(): Promise<Cluster> {
    const box = await PostgresBox.start({ wal_keep_size: '512MB', max_wal_senders: '10' });
    const primary: Node = {
      folder: box.folder,
      dataDir: join(box.folder, 'pg'),
      url: box.url,
      crash: () => box.crash('SIGKILL'),
      remove: () => box.stop(),
    };
    const door = await Door.open(Number(new URL(box.url).port));
    const cluster = new Cluster(primary, door);
    await cluster.addStandby();
    return cluster;
  }

  /** On return the primary commits nothing that a new standby has not written to its disk. */
  async addStandby(): Promise<void> {
    const standby = await copyOf(this.#primary);
    this.#standby = standby;
    await onServer(this.#primary.url, async (client) => {
      await client.query(`ALTER SYSTEM SET synchronous_standby_names = '${STANDBY}'`);
      await client.query('SELECT pg_reload_conf()');
      await until('the standby is synchronous', async () => {
        const { rows } = await client.query<{ sync_state: string }>(
          'SELECT sync_state FROM pg_stat_replication WHERE application_name = $1',
          [STANDBY],
        );
        return rows[0]?.sync_state === 'sync';
      });
    });
  }

  /** Kills the primary, promotes the standby and moves the address. @returns how long nobody could write, ms */
  async failOver(): Promise<number> {
    const standby = this.#standby;
    if (standby === null) throw new Error('There is no standby.');
    const startedAt = performance.now();
    const old = this.#primary;
    await old.crash();
    this.#door.shut();
    await onServer(standby.url, async (client) => {
      const { rows } = await client.query<{ done: boolean }>('SELECT pg_promote(true, 60) AS done');
      if (rows[0]?.done !== true) throw new Error('The standby could not be promoted.');
    });
    this.#primary = standby;
    this.#standby = null;
    this.#door.lead(Number(new URL(standby.url).port));
    const away_ms = Math.round(performance.now() - startedAt);
    await old.remove();
    return away_ms;
  }

  async stop(): Promise<void> {
    await this.#door.close();
    // The standby first: a primary that waits for one would wait for ever.
    await this.#standby?.remove();
    await this.#primary.remove();
  }
}

/** A base backup of a running server, started as its standby. */
async function copyOf(primary: Node): Promise<Node> {
  const folder = await mkdtemp(join(tmpdir(), 'sagax-chaos-standby-'));
  await chmod(folder, 0o755);
  const dataDir = join(folder, 'pg');
  const { uid, gid } = await stat(primary.dataDir);
  const own = async (path: string): Promise<void> => {
    if (process.getuid?.() === 0) await chown(path, uid, gid);
  };
  await onServer(primary.url, async (client) => {
    await client.query(`SELECT pg_backup_start('standby', true)`);
    await cp(primary.dataDir, dataDir, {
      recursive: true,
      verbatimSymlinks: true,
      filter: (path) => !NOT_COPIED.has(path.slice(primary.dataDir.length + 1)),
    });
    const { rows } = await client.query<{ labelfile: string }>(
      'SELECT labelfile FROM pg_backup_stop(false)',
    );
    await writeFile(join(dataDir, 'backup_label'), rows[0]?.labelfile ?? '');
  });
  for (const name of ['pg_wal', 'pg_wal/archive_status', 'pg_replslot'])
    await mkdir(join(dataDir, name), { mode: 0o700 });
  await writeFile(join(dataDir, 'standby.signal'), '');
  await writeFile(
    join(dataDir, 'postgresql.auto.conf'),
    `primary_conninfo = '${conninfo(primary.url)}'\n`,
  );
  await ownAll(dataDir, own);
  await chmod(dataDir, 0o700);
  return startNode(folder, dataDir, primary);
}

function conninfo(url: string): string {
  const { hostname, port, username, password } = new URL(url);
  return `host=${hostname} port=${port} user=${username} password=${password} application_name=${STANDBY}`;
}

async function ownAll(folder: string, own: (path: string) => Promise<void>): Promise<void> {
  await own(folder);
  for (const path of await readdir(folder, { recursive: true })) await own(join(folder, path));
}

async function startNode(folder: string, dataDir: string, primary: Node): Promise<Node> {
  const [binary = ''] = (await readFile(join(primary.dataDir, 'postmaster.opts'), 'utf8')).split(
    ' ',
  );
  const port = await freePort();
  const { uid, gid } = await stat(dataDir);
  const settings = {
    port: String(port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '400',
    shared_buffers: '256MB',
    wal_keep_size: '512MB',
    max_wal_senders: '10',
    max_wal_size: '1GB',
    timezone: 'UTC',
    jit: 'off',
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const child = spawn(binary, ['-D', dataDir, ...flags], {
    ...(process.getuid?.() === 0 ? { uid, gid } : {}),
    cwd: folder,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const said: string[] = [];
  child.stderr.on('data', (chunk: Buffer) => {
    said.push(chunk.toString());
    if (said.length > 50) said.shift();
  });
  const url = new URL(primary.url);
  url.port = String(port);
  const end = (): Promise<void> => endOf(child, 'SIGKILL');
  process.once('exit', () => child.kill('SIGKILL'));
  try {
    await until('the standby answers', async () => {
      if (child.exitCode !== null) throw new Error(`The standby ended: ${said.join('')}`);
      return onServer(url.toString(), () => Promise.resolve(true)).catch(() => false);
    });
  } catch (error) {
    await end();
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
  return {
    folder,
    dataDir,
    url: url.toString(),
    crash: end,
    remove: async () => {
      await endOf(child, 'SIGINT');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function endOf(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}

async function onServer<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  const giveUpAt = performance.now() + LIMIT_MS;
  while (!(await look())) {
    if (performance.now() > giveUpAt) throw new Error(`${what}: not within ${LIMIT_MS} ms`);
    await pause(50);
  }
}

/** One port that leads to another one, which may change; connections to the old one are cut. */
export class Door {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #target: number | null;

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer((client) => this.#take(client));
  }

  static async open(target: number): Promise<Door> {
    const door = new Door(target);
    door.#server.listen(0, '127.0.0.1');
    await once(door.#server, 'listening');
    return door;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  shut(): void {
    this.#target = null;
    for (const socket of this.#sockets) socket.destroy();
  }

  lead(target: number): void {
    this.#target = target;
  }

  async close(): Promise<void> {
    this.shut();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #take(client: Socket): void {
    if (this.#target === null) return void client.destroy();
    const upstream = connect(this.#target, '127.0.0.1');
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  }
}
