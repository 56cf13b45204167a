/**
 * Access as it is deployed: what refuses to start, keys made on the command line, and that no secret gets into what
 * processes say.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeKey } from '../../api/access/keys.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { eventually, startProcess, type SagaxProcess } from './processes.ts';

let database: TestDatabase;
const processes: SagaxProcess[] = [];
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(async () => {
  for (const one of processes) one.kill('SIGKILL');
  await Promise.all(processes.map(({ ended }) => ended));
  await database?.drop();
});

function run(
  role: string,
  env: { [name: string]: string } = {},
  args: string[] = [],
): SagaxProcess {
  // Empty is as good as not set: what the command does by itself.
  const settings = {
    DATABASE_URL: database.url,
    SAGAX_PORT: '0',
    SAGAX_AUTH: '',
    SAGAX_SHARDS: '4',
  };
  const started = startProcess(role, { ...settings, ...env }, args);
  processes.push(started);
  return started;
}
const listening = async (process: SagaxProcess): Promise<string> =>
  (await process.line(/"address":"([^"]+)"/))[1] ?? '';
/** The key that `keys create` printed. */
async function create(...args: string[]): Promise<string> {
  const made = run('keys', {}, ['create', ...args]);
  expect(await made.ended, made.said()).toBe(0);
  return /^sgx_\S+$/m.exec(made.said())?.[0] ?? '';
}
const get = (url: string, key?: string): Promise<Response> =>
  fetch(url, { headers: key === undefined ? {} : { authorization: `Bearer ${key}` } });

describe('an API', { timeout: 120_000 }, () => {
  test('that nobody could use does not start, and says how to make a key', async () => {
    const api = run('api');
    expect(await api.ended).toBe(78);
    expect(api.said()).toMatch(/CONFIG_INVALID.*no live key.*sagax -- keys create --role admin/s);
  });

  test('of `start` beyond this machine asks for credentials', async () => {
    const start = run('start', { SAGAX_HOST: '0.0.0.0', SAGAX_LOG_LEVEL: 'warn' });
    expect(await start.ended).toBe(78);
    expect(start.said()).toContain('The API asks for credentials');
  });

  test('without authentication says so, and serves this machine alone', async () => {
    const start = run('start', { SAGAX_LOG_LEVEL: 'warn' });
    const address = (await start.line(/Sagax is up at (\S+)/))[1] ?? '';
    await start.line(
      /asks nobody for credentials and serves this machine alone \(SAGAX_AUTH=off\)/,
    );
    expect((await get(`${address}/v1/sagas`)).status).toBe(200);
    const rebound = await fetch(`${address}/v1/sagas`, {
      headers: { origin: 'https://evil.example.com' },
    });
    expect(rebound.status).toBe(403);
    start.kill('SIGTERM');
    expect(await start.ended).toBe(0);
  });
});

describe('keys', { timeout: 120_000 }, () => {
  test('are made on the command line, open the API as far as they go, and are revoked', async () => {
    const admin = await create('--role', 'admin', '--expires', '1h');
    const reader = await create(
      '--role',
      'reader',
      '--namespace',
      'blue',
      '--expires',
      '30d',
      '--name',
      'a dashboard',
    );
    const api = await listening(run('api'));
    expect((await get(`${api}/v1/sagas`)).status).toBe(401);
    expect((await get(`${api}/v1/sagas`, admin)).status).toBe(200);
    expect((await get(`${api}/v1/sagas`, reader)).status).toBe(403);
    expect((await get(`${api}/v1/namespaces/blue/sagas`, reader)).status).toBe(200);
    expect((await get(`${api}/metrics`, reader)).status).toBe(403);
    expect((await get(`${api}/healthz`)).status).toBe(200);

    const list = run('keys', {}, ['list']);
    expect(await list.ended).toBe(0);
    expect(list.said()).toMatch(
      new RegExp(`${reader.slice(4, 16)}  reader  until .*blue .*a dashboard`),
    );
    expect(list.said()).not.toContain(reader.slice(17));

    const id = reader.slice(4, 16);
    const revoke = run('keys', {}, ['revoke', id]);
    expect(await revoke.ended, revoke.said()).toBe(0);
    await eventually('the key is refused', 20_000, async () =>
      (await get(`${api}/v1/namespaces/blue/sagas`, reader)).status === 401 ? true : null,
    );
    const { rows } = await database.pool.query(
      `SELECT action, target, principal, status FROM sagax.audit ORDER BY id`,
    );
    expect(rows).toEqual([
      {
        action: 'createKey',
        target: admin.slice(4, 16),
        principal: expect.stringMatching(/^cli:/),
        status: 200,
      },
      { action: 'createKey', target: id, principal: expect.stringMatching(/^cli:/), status: 200 },
      { action: 'revokeKey', target: id, principal: expect.stringMatching(/^cli:/), status: 200 },
    ]);
    const stored = await database.pool.query('SELECT api_keys::text AS row FROM sagax.api_keys');
    expect(JSON.stringify(stored.rows)).not.toContain(reader.slice(17));
  });

  test('that are not there, or asked for wrongly, have exit codes of their own', async () => {
    const [unknown, wrong] = [
      run('keys', {}, ['revoke', 'ffffffffffff']),
      run('keys', {}, ['create', '--role', 'root']),
    ];
    expect([await unknown?.ended, await wrong?.ended]).toEqual([78, 64]);
    expect(unknown?.said()).toContain('KEY_UNKNOWN');
  });
});

describe('secrets', { timeout: 120_000 }, () => {
  /** A text that is found only where this secret was let out. */
  const canary = (name: string): string => `canary${name}Zq7`;

  test('never get into what processes say, whatever goes wrong', async () => {
    const url = new URL(database.url);
    // Its password is what must not be seen; the server of the tests ends with them, and the role with it.
    url.username = `canary_${database.name}`;
    url.password = canary('Database');
    await database.pool.query(
      `CREATE ROLE ${url.username} LOGIN SUPERUSER PASSWORD '${url.password}'`,
    );
    const admin = makeKey().key;
    const wrong = makeKey().key;
    const jwt = `eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.${canary('Jwt')}.${canary('Signature')}`;
    const provider = createServer((_request, response) => response.writeHead(500).end());
    await new Promise<void>((resolve) => provider.listen(0, '127.0.0.1', resolve));
    const env = {
      DATABASE_URL: url.toString(),
      SAGAX_PARTICIPANT_DATABASE_URL: url.toString(),
      SAGAX_ADMIN_KEY: admin,
      SAGAX_JWKS_URL: `http://127.0.0.1:${(provider.address() as AddressInfo).port}/`,
      SAGAX_JWT_ISSUER: 'https://id.example.com/',
      SAGAX_JWT_AUDIENCE: 'sagax',
      SAGAX_LOG_LEVEL: 'trace',
    };
    const secrets = [
      canary('Database'),
      canary('Jwt'),
      canary('Signature'),
      canary('Sasl'),
      canary('Wrong'),
      admin.slice(17),
      wrong.slice(17),
    ];
    const said: string[] = [];
    const pattern = new RegExp(secrets.join('|'));
    /** Of each process, the first line with a secret in it, of all that it ever says; null when there is none. */
    const leaks: Promise<string | null>[] = [];
    const spy = (
      role: string,
      settings: { [name: string]: string },
      args: string[] = [],
    ): SagaxProcess => {
      const process = run(role, settings, args);
      leaks.push(
        process.line(pattern).then(
          ({ input }) => input,
          () => null,
        ),
      );
      return process;
    };

    const [api, engine, worker] = ['api', 'engine', 'worker'].map((role) => spy(role, env));
    const address = await listening(api as SagaxProcess);
    await Promise.all([engine?.line(/the engine runs/), worker?.line(/the workers run/)]);
    for (const bearer of [admin, wrong, jwt, `${admin}x`]) {
      said.push(await (await get(`${address}/v1/shards`, bearer)).text());
      said.push(await (await get(`${address}/${bearer.slice(0, 5)}`, bearer)).text());
      const post = { method: 'POST', headers: { authorization: `Bearer ${bearer}` } };
      said.push(await (await fetch(`${address}/v1/sagas/1/pause`, post)).text());
    }
    // Every connection dies under its statements.
    await database.pool.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
    );
    await eventually('the API answers again', 60_000, async () =>
      (await get(`${address}/v1/sagas`, admin)).status === 200 ? true : null,
    );
    said.push(await (await get(`${address}/metrics`, admin)).text());
    for (const one of [api, engine, worker]) one?.kill('SIGTERM');
    await Promise.all([api, engine, worker].map(async (one) => one?.ended));

    // A server that is not there, a user that there is not, brokers that refuse.
    url.port = '1';
    const kafka = {
      KAFKA_BROKERS: '127.0.0.1:1',
      KAFKA_SASL_MECHANISM: 'plain',
      KAFKA_SASL_USERNAME: 'sagax',
      KAFKA_SASL_PASSWORD: canary('Sasl'),
    };
    const lost = [
      spy('engine', { ...env, DATABASE_URL: url.toString() }),
      spy('api', { ...env, DATABASE_URL: `${url.toString()}?sslmode=nonsense` }),
      spy('worker', { ...env, SAGAX_LOG_LEVEL: 'loud' }),
      spy('keys', { ...env, DATABASE_URL: url.toString() }, ['list']),
      spy('engine', { ...env, ...kafka }),
      // A password that is wrong: Postgres itself says no.
      spy('api', {
        ...env,
        DATABASE_URL: env.DATABASE_URL.replace(canary('Database'), canary('Wrong')),
      }),
    ];
    expect(await Promise.all(lost.map(({ ended }) => ended))).not.toContain(0);
    provider.close();

    said.push(...processes.slice(-leaks.length).map((one) => one.said()));
    expect(said.join('\n').length).toBeGreaterThan(2_000);
    const audit = await database.pool.query('SELECT audit::text AS row FROM sagax.audit');
    said.push(JSON.stringify(audit.rows));
    expect(await Promise.all(leaks)).toEqual(leaks.map(() => null));
    expect(pattern.exec(said.join('\n'))).toBeNull();
    expect(said.join('\n')).toContain('Credentials were refused.');
  });
});
