/**
 * The engines that Sagax is compared with, installed on demand into bench/peers.
 *
 * Guards that they run as their documentation says, with their durability on, new data each time, and
 * participants that do the same durable work on the same Postgres.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Driver } from './driver-client.ts';
import { startProcess, type BenchProcess } from './processes.ts';
import { PARTICIPANT_CONNECTIONS } from './sagax-stack.ts';
import { bytesUnder, startPostgres, type PostgresServer } from './servers.ts';
import { Cleanup, type ByProcess, type Stack } from './stack.ts';

const FOLDER = fileURLToPath(new URL('./peers/', import.meta.url));
const READY = /^ready (\{.*\})$/;

/** Runs `npm ci` in bench/peers unless what its lockfile says is there. */
export async function installPeers(): Promise<void> {
  const installed = join(FOLDER, 'node_modules', '.package-lock.json');
  if (existsSync(installed)) {
    const [have, want] = await Promise.all(
      [installed, join(FOLDER, 'package-lock.json')].map(packages),
    );
    if (have === want) return;
  }
  process.stderr.write('bench: installing the peers (npm ci in bench/peers) …\n');
  const npm = spawn(
    'npm',
    ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'],
    { cwd: FOLDER, stdio: ['ignore', 'inherit', 'inherit'] },
  );
  const [code] = (await once(npm, 'exit')) as [number | null];
  if (code !== 0) throw new Error('npm ci failed in bench/peers; its words are above.');
}

/** Versions of the packages of a lockfile, as one text; those for other platforms are left out. */
async function packages(path: string): Promise<string> {
  const lock = JSON.parse(await readFile(path, 'utf8')) as {
    packages: { [path: string]: { version?: string; optional?: boolean } };
  };
  return Object.entries(lock.packages)
    .filter(([name, { optional }]) => name !== '' && optional !== true)
    .map(([name, { version }]) => `${name}@${version}`)
    .join('\n');
}

/** @returns versions of the compared packages */
export async function peerVersions(): Promise<{ [name: string]: string }> {
  const text = await readFile(join(FOLDER, 'package.json'), 'utf8');
  return (JSON.parse(text) as { dependencies: { [name: string]: string } }).dependencies;
}

interface PeerOptions {
  /** Participants behind HTTP in a process of their own, or within the engine's process. */
  participants: 'http' | 'inline';
}

/** What both peers begin with: Postgres, and participants that are remote or not. */
async function prepare(
  { participants }: PeerOptions,
  cleanup: Cleanup,
): Promise<{
  postgres: PostgresServer;
  own: BenchProcess[];
  env: { [name: string]: string };
}> {
  const postgres = await startPostgres(false);
  cleanup.add(() => postgres.stop());
  const own: BenchProcess[] = [];
  cleanup.add(() => Promise.all(own.map((one) => one.stop())));
  const env: { [name: string]: string } = {
    BENCH_DATABASE_URL: postgres.url,
    BENCH_CONNECTIONS: String(PARTICIPANT_CONNECTIONS),
  };
  if (participants === 'http') {
    const remote = await startPeer('participants', 'participants.mjs', env);
    own.push(remote);
    env['BENCH_PARTICIPANTS'] = portOf(remote);
  }
  return { postgres, own, env };
}

export async function startRestate(options: PeerOptions): Promise<Stack> {
  const cleanup = new Cleanup();
  try {
    const { postgres, own, env } = await prepare(options, cleanup);
    const folder = await mkdtemp(join(tmpdir(), 'sagax-bench-restate-'));
    cleanup.add(() => rm(folder, { recursive: true, force: true }));
    const { server, ingress } = await startRestateServer(folder);
    own.push(server.process);
    const service = await startPeer('service', 'restate-service.mjs', env);
    own.push(service);
    const answer = await fetch(`${server.admin}/deployments`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ uri: `http://127.0.0.1:${portOf(service)}` }),
    });
    if (!answer.ok) throw new Error(`Restate refused the service: ${await answer.text()}`);
    const driver = await Driver.open({ kind: 'http', url: `${ingress}/order/run` });
    cleanup.add(() => driver.close());
    return {
      driver,
      own,
      stores: { postgres: postgres.pid },
      stored: async () => ({ log: await bytesUnder(folder), ...(await tables(postgres)) }),
      stop: () => cleanup.run(),
    };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

async function startRestateServer(folder: string): Promise<{
  server: { process: BenchProcess; admin: string };
  ingress: string;
}> {
  const [node, ingress, admin] = await Promise.all([freePort(), freePort(), freePort()]);
  const binary = `@restatedev/restate-server-${process.platform}-${process.arch}/bin/restate-server`;
  const started = await startProcess({
    role: 'restate-server',
    command: join(FOLDER, 'node_modules', binary),
    args: [
      ...['--base-dir', folder, '--node-name', 'bench', '--no-logo', '--listen-mode', 'tcp'],
      ...['--bind-address', `127.0.0.1:${node}`],
      ...['--advertised-address', `http://127.0.0.1:${node}`],
    ],
    env: {
      RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
      RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`,
      RESTATE_DISABLE_TELEMETRY: 'true',
      RESTATE_LOG_DISABLE_ANSI_CODES: 'true',
      DO_NOT_TRACK: '1',
    },
    cwd: folder,
    ready: /My Node ID is/,
  });
  const urls = [`http://127.0.0.1:${admin}/health`, `http://127.0.0.1:${ingress}/restate/health`];
  for (const url of urls) await untilOk(url);
  return {
    server: { process: started, admin: `http://127.0.0.1:${admin}` },
    ingress: `http://127.0.0.1:${ingress}`,
  };
}

export async function startDbos(options: PeerOptions): Promise<Stack> {
  const cleanup = new Cleanup();
  try {
    const { postgres, own, env } = await prepare(options, cleanup);
    const app = await startPeer('app', 'dbos-app.mjs', env);
    own.push(app);
    const driver = await Driver.open({ kind: 'http', url: `http://127.0.0.1:${portOf(app)}/run` });
    cleanup.add(() => driver.close());
    return {
      driver,
      own,
      stores: { postgres: postgres.pid },
      stored: () => tables(postgres),
      stop: () => cleanup.run(),
    };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

async function tables(postgres: PostgresServer): Promise<ByProcess> {
  const { rows } = await postgres.pool.query<{ what: string; bytes: string }>(`
    SELECT CASE n.nspname WHEN 'bench' THEN 'participants' ELSE 'log' END AS what,
      sum(pg_total_relation_size(c.oid)) AS bytes
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname IN ('bench', 'dbos') GROUP BY 1`);
  return Object.fromEntries(rows.map(({ what, bytes }) => [what, Number(bytes)]));
}

function startPeer(
  role: string,
  file: string,
  env: { [name: string]: string },
): Promise<BenchProcess> {
  const args = [join(FOLDER, file)];
  return startProcess({ role, command: process.execPath, args, env, ready: READY });
}

function portOf(started: BenchProcess): string {
  return String((JSON.parse(started.ready[1] ?? '{}') as { port: number }).port);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  return port;
}

const HEALTH_TRIES = 300;

async function untilOk(url: string): Promise<void> {
  for (let tries = 0; tries < HEALTH_TRIES; tries++) {
    const ok = await fetch(url).then(
      (answer) => answer.ok,
      () => false,
    );
    if (ok) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${url} did not become healthy within ${(HEALTH_TRIES * 100) / 1000} s.`);
}
