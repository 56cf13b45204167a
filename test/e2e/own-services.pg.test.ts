/**
 * Sagas and services of the user's own, as README and AUTHORING show them: their code is run as it stands there, so
 * that what a newcomer copies works.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { root, sampleOf } from '../support/samples.ts';
import { startProcess, type SagaxProcess } from './processes.ts';

let database: TestDatabase;
let folder: string;
let till: Server;
const charges = new Map<string, number>();
const processes: SagaxProcess[] = [];

/** For a file one folder below the project's. */
const below = (code: string): string =>
  code.replaceAll(/from '\.\/(engine|workers)\//g, "from '../$1/");

/** A till elsewhere: it knows idempotency keys, and declines what is dear. */
function startTill(): Promise<Server> {
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const { cents } = JSON.parse(Buffer.concat(parts).toString()) as { cents: number };
      const key = String(request.headers['idempotency-key']);
      if (cents > 100_000) return response.writeHead(402).end();
      charges.set(key, cents);
      response.writeHead(200, { 'content-type': 'application/json' });
      return response.end(JSON.stringify({ receipt: `r-${key}` }));
    });
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

beforeAll(async () => {
  [database, till, folder] = await Promise.all([
    testDatabase(),
    startTill(),
    mkdtemp(`${root}.sample-`),
  ]);
  const url = `http://127.0.0.1:${(till.address() as AddressInfo).port}`;
  const services = below(await sampleOf('docs/AUTHORING.md', '### A service of your own'));
  await writeFile(
    join(folder, 'book-room.ts'),
    below(await sampleOf('README.md', '## A saga in 40')),
  );
  await writeFile(join(folder, 'services.ts'), services.replaceAll(/http:\/\/localhost:\d+/g, url));
  await writeFile(join(folder, 'nothing.ts'), 'export const service = [];\n');
});
afterAll(async () => {
  for (const one of processes) one.kill('SIGKILL');
  await Promise.all(processes.map(({ ended }) => ended));
  till?.close();
  await database?.drop();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});

function start(role: string, env: { [name: string]: string }): SagaxProcess {
  const process = startProcess(role, { DATABASE_URL: database.url, SAGAX_PORT: '0', ...env });
  processes.push(process);
  return process;
}

interface Answer {
  sagaId: string;
  status: string;
  state: string;
  failure: { code: string } | null;
}

async function book(address: string, room: string, cents: number): Promise<Answer> {
  const answer = await fetch(`${address}/v1/sagas`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', prefer: 'wait=30' },
    body: JSON.stringify({ definition: 'book-room', input: { room, cents } }),
  });
  return (await answer.json()) as Answer;
}

describe('a saga and services of the user', () => {
  test('run by `npm start`: book, find it taken, give back what could not be paid', async () => {
    const definitions = join(folder, 'book-room.ts');
    const process = start('start', {
      SAGAX_DEFINITIONS: definitions,
      SAGAX_WORKERS: join(folder, 'services.ts'),
    });
    const [, address = ''] = await process.line(/Sagax is up at (\S+)/);
    await process.line(/Ctrl-C/);
    expect(process.said()).toContain('"definition": "book-room"');
    expect(await book(address, 'blue', 900)).toMatchObject({ status: 'completed' });
    expect(await book(address, 'blue', 900)).toMatchObject({ status: 'compensated' });
    expect(await book(address, 'red', 900_000)).toMatchObject({ status: 'compensated' });
    expect(await book(address, 'red', 700)).toMatchObject({ status: 'completed' });
    expect([...charges.values()].sort((a, b) => a - b)).toEqual([700, 900]);

    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    const { rows } = await client.query(
      'SELECT room, is_held FROM rooms.bookings ORDER BY room, is_held',
    );
    const { rows: schemas } = await client.query(
      "SELECT nspname FROM pg_namespace WHERE nspname IN ('inventory', 'till')",
    );
    await client.end();
    expect(rows).toEqual([
      { room: 'blue', is_held: true },
      { room: 'red', is_held: false },
      { room: 'red', is_held: true },
    ]);
    // The examples' services were not started.
    expect(schemas).toEqual([{ nspname: 'till' }]);
    process.kill('SIGTERM');
    expect(await process.ended, process.said()).toBe(0);
  });

  test('`npm start` without their services says what is missing', async () => {
    const process = start('start', { SAGAX_DEFINITIONS: join(folder, 'book-room.ts') });
    await process.line(/runs no participants: .*SAGAX_WORKERS/);
    process.kill('SIGTERM');
    expect(await process.ended, process.said()).toBe(0);
  });

  test('`npm run worker` runs those that SAGAX_SERVICES names', async () => {
    const process = start('worker', {
      SAGAX_WORKERS: join(folder, 'services.ts'),
      SAGAX_SERVICES: 'till',
    });
    const [line] = await process.line(/^.*the workers run.*$/);
    expect(JSON.parse(line)).toMatchObject({ services: ['till'] });
    process.kill('SIGTERM');
    expect(await process.ended, process.said()).toBe(0);
  });

  test.each([
    ['nothing.ts', {}, /must export `services`, a non-empty array of what defineService\(\)/],
    ['not-there.ts', {}, /SAGAX_WORKERS=.*not-there\.ts can't be loaded/],
    ['services.ts', { SAGAX_SERVICES: 'bar' }, /SAGAX_SERVICES names bar; there are: rooms, till/],
  ])('%s with %o: it ends as a wrong setting, and says so', async (file, env, words) => {
    const process = start('worker', { SAGAX_WORKERS: join(folder, file), ...env });
    expect(await process.ended, process.said()).toBe(78);
    expect(process.said()).toMatch(words);
    expect(process.said()).not.toMatch(/^\s+at /m);
  });
});
