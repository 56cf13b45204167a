/** The embedded server: data survives any end of its owner, the server does not, and a folder has one owner. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../engine/postgres/embedded.ts';

const MODULE = new URL('../../engine/postgres/embedded.ts', import.meta.url).href;

// One folder for all: setting one up takes longer than all the rest. Each test leaves it stopped and whole.
let folder: string;
let children: ChildProcess[] = [];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sagax-embedded-'));
});
afterEach(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  children = [];
  for (const server of servers.splice(0)) await server.stop();
});
afterAll(async () => {
  // Whatever a failed test left running is ended by a start of our own.
  await (await startEmbeddedPostgres({ folder })).stop();
  await rm(folder, { recursive: true, force: true });
});

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}
const servers: EmbeddedPostgres[] = [];
/** Without fsync, since no power is cut here; a killed process loses nothing by that. */
async function start(port?: number): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({
    folder,
    fsync: false,
    ...(port === undefined ? {} : { port }),
  });
  servers.push(server);
  return server;
}
const alive = async (pid: number): Promise<boolean> => {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return text !== '' && !/\) Z /.test(text);
};
async function ends(pid: number): Promise<void> {
  // A process that is not our child gives no signal when it ends; looking is all there is.
  for (let round = 0; round < 1_000 && (await alive(pid)); round++) await pause(10);
  expect(await alive(pid)).toBe(false);
}

/** A process that starts the server on the folder and does `then`; resolves to its answer, once the server runs. */
async function owner(then: string): Promise<{ child: ChildProcess; url: string; pid: number }> {
  const code = `import { startEmbeddedPostgres } from ${JSON.stringify(MODULE)};
    const server = await startEmbeddedPostgres({ folder: ${JSON.stringify(folder)}, fsync: false });
    console.log(JSON.stringify({ url: server.url, pid: server.pid })); ${then}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  if (child.stdout === null) throw new Error('No output.');
  const [line] = await Promise.race([
    once(child.stdout, 'data') as Promise<[Buffer]>,
    once(child, 'close').then(() => {
      throw new Error('The process ended before its server ran.');
    }),
  ]);
  return { child, ...(JSON.parse(line.toString()) as { url: string; pid: number }) };
}

test('data, password and log stay in the folder over a restart; nothing of it is open to others', async () => {
  const first = await startEmbeddedPostgres({ folder });
  servers.push(first);
  expect(await query(first.url, 'SHOW fsync')).toEqual([{ fsync: 'on' }]);
  await query(first.url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 'ü' AS word");
  expect(await query(first.url, 'SHOW server_encoding')).toEqual([{ server_encoding: 'UTF8' }]);
  expect(await query(first.url, 'SHOW listen_addresses')).toEqual([
    { listen_addresses: '127.0.0.1' },
  ]);
  await expect(query(first.url.replace(/:[^:@]+@/, ':wrong@'), 'SELECT 1')).rejects.toThrow(
    /password authentication/,
  );
  await first.stop();
  await first.stop();
  await ends(first.pid);
  const second = await start();
  expect(await query(second.url, 'SELECT word FROM kept')).toEqual([{ word: 'ü' }]);
  expect((await stat(join(folder, 'password'))).mode & 0o077).toBe(0);
  expect((await stat(join(folder, 'pg'))).mode & 0o077).toBe(0);
  expect(await readFile(join(folder, 'postgres.log'), 'utf8')).toMatch(
    /ready to accept connections/,
  );
  await second.stop();
});

test('a folder in use is refused, with the pid of its owner and the remedy', async () => {
  const server = await start();
  await expect(start()).rejects.toMatchObject({
    code: 'DATA_FOLDER_LOCKED',
    message: expect.stringMatching(
      new RegExp(`${folder}.*process ${process.pid}.*another data folder`),
    ) as string,
  });
  expect(await query(server.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  await server.stop();
  const other = await owner('setInterval(() => {}, 1000)');
  await expect(start()).rejects.toMatchObject({
    code: 'DATA_FOLDER_LOCKED',
    message: expect.stringMatching(new RegExp(`process ${other.child.pid}`)) as string,
  });
});

test.each([
  ['it is killed', 'setInterval(() => {}, 1000)', 'SIGKILL'],
  ['SIGTERM ends it', 'setInterval(() => {}, 1000)', 'SIGTERM'],
  ['Ctrl-C ends it', 'setInterval(() => {}, 1000)', 'SIGINT'],
  ['it comes to its end', '', null],
  ['it exits', 'process.exit(3)', null],
] as const)(
  'the server ends with its owner when %s, and what was committed stays',
  async (_name, then, signal) => {
    const other = await owner(then);
    if (signal !== null) {
      const kept = `CREATE TABLE kept AS SELECT '${signal}' AS signal`;
      await query(other.url, `DROP TABLE IF EXISTS kept; ${kept}`);
      other.child.kill(signal);
    }
    if (other.child.exitCode === null && other.child.signalCode === null)
      await once(other.child, 'exit');
    // Started while the orphan may still be shutting down.
    const server = await start();
    expect(await alive(other.pid)).toBe(false);
    // The last two rows write nothing of their own: what the one before them left is still there.
    expect(await query(server.url, 'SELECT signal FROM kept')).toEqual([
      { signal: signal ?? 'SIGINT' },
    ]);
    await server.stop();
  },
  60_000,
);

test('a server that outlived its owner and its guard is found by its pid file and ended', async () => {
  const other = await owner('setInterval(() => {}, 1000)');
  await query(other.url, 'DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS n');
  const { stdout } = spawn('ps', ['-eo', 'pid=,args='], { stdio: ['ignore', 'pipe', 'ignore'] });
  let table = '';
  for await (const chunk of stdout) table += String(chunk);
  const guard = table
    .split('\n')
    .find((line) => line.includes(`sagax-postgres-guard ${other.pid} `));
  process.kill(Number(guard?.trim().split(/\s+/)[0]), 'SIGKILL');
  other.child.kill('SIGKILL');
  await once(other.child, 'exit');
  expect(await alive(other.pid)).toBe(true);
  const server = await start();
  expect(await alive(other.pid)).toBe(false);
  expect(await query(server.url, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  await server.stop();
});

test('a server that was killed is recovered from, also when its pid is another process by now', async () => {
  const first = await start();
  await query(first.url, 'DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS n');
  const pidFile = join(folder, 'pg', 'postmaster.pid');
  const lines = (await readFile(pidFile, 'utf8')).split('\n');
  process.kill(first.pid, 'SIGKILL');
  await ends(first.pid);
  await first.stop();
  lines[0] = String(process.pid);
  await writeFile(pidFile, lines.join('\n'));
  const second = await start();
  expect(await query(second.url, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  await second.stop();
});

test('the port that was asked for, or PORT_TAKEN', async () => {
  const blocker = createServer();
  blocker.listen(0, '127.0.0.1');
  await once(blocker, 'listening');
  const { port } = blocker.address() as AddressInfo;
  await expect(start(port)).rejects.toMatchObject({
    code: 'PORT_TAKEN',
  });
  blocker.close();
  await once(blocker, 'close');
  const server = await start(port);
  expect(new URL(server.url).port).toBe(String(port));
  await server.stop();
});

test.runIf(process.getuid?.() === 0)(
  "as root, a folder that Postgres's user can't reach is refused with the remedy",
  async () => {
    const closed = await mkdtemp(join(tmpdir(), 'sagax-closed-'));
    await chmod(closed, 0o700);
    try {
      await expect(startEmbeddedPostgres({ folder: join(closed, 'data') })).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/can't reach the data folder.*\/var\/lib\/sagax/) as string,
      });
    } finally {
      await rm(closed, { recursive: true });
    }
  },
);

test('a data folder that Postgres can not use: the error has the end of the log', async () => {
  const server = await start();
  await server.stop();
  const version = join(folder, 'pg', 'PG_VERSION');
  await writeFile(version, '9.6\n');
  await expect(start()).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
    message: expect.stringMatching(/initialized by PostgreSQL version 9.6/) as string,
  });
  await writeFile(version, '18\n');
});
