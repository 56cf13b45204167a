/** What `npm start` runs, as a newcomer meets it: an embedded Postgres, a restart, and what can be in the way. */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startProcess, type SagaxProcess } from './processes.ts';

let folder: string;
const processes: SagaxProcess[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sagax-start-'));
  // As root the server runs as another user, who must be able to reach the folder.
  await chmod(folder, 0o755);
});
afterAll(async () => {
  for (const one of processes) one.kill('SIGKILL');
  await Promise.all(processes.map(({ ended }) => ended));
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
});

function start(env: { [name: string]: string } = {}): SagaxProcess {
  const started = startProcess('start', {
    SAGAX_DATA_DIR: folder,
    SAGAX_PORT: '0',
    SAGAX_LOG_LEVEL: 'warn',
    ...env,
  });
  processes.push(started);
  return started;
}
const addressOf = async (process: SagaxProcess): Promise<string> =>
  (await process.line(/Sagax is up at (\S+)/))[1] ?? '';

const input = (over: object): object => ({
  orderId: 'o-1',
  email: 'ann@example.com',
  sku: 'book',
  quantity: 1,
  amountCents: 4_200,
  card: '4242424242424242',
  address: { name: 'Ann', street: 'Way 1', city: 'Ulm', postalCode: '89073', country: 'DE' },
  ...over,
});

interface Answer {
  sagaId: string;
  status: string;
  state?: string;
  failure: { code: string } | null;
  output: { [name: string]: unknown } | null;
}
async function post(
  url: string,
  body: object,
  headers: { [name: string]: string } = {},
): Promise<{ status: number; body: Answer }> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  return { status: answer.status, body: (await answer.json()) as Answer };
}
const startOrder = (
  api: string,
  over: object,
  wait?: number,
): Promise<{ status: number; body: Answer }> =>
  post(
    `${api}/v1/sagas`,
    { definition: 'order', input: input(over) },
    wait === undefined ? {} : { prefer: `wait=${wait}` },
  );

describe('start', { timeout: 120_000 }, () => {
  test('runs orders to their ends, keeps one that waits over a restart, and drains on SIGTERM', async () => {
    const first = start();
    let api = await addressOf(first);

    const done = await startOrder(api, { orderId: 'o-1' }, 20);
    expect(done.body).toMatchObject({ status: 'completed', output: { outcome: 'completed' } });

    const declined = await startOrder(api, { orderId: 'o-2', card: '4000000000000002' }, 20);
    expect(declined.body).toMatchObject({
      status: 'compensated',
      failure: { code: 'CardDeclined' },
      output: { outcome: 'cancelled' },
    });
    const history = (await (
      await fetch(`${api}/v1/sagas/${declined.body.sagaId}/history`)
    ).json()) as { items: { type: string }[] };
    expect(history.items.map(({ type }) => type)).toContain('CompensationSucceeded');

    const waiting = await startOrder(api, { orderId: 'o-3', amountCents: 500_000 });
    expect(waiting.status).toBe(202);
    const path = `/v1/sagas/${waiting.body.sagaId}`;
    // 202 at the end of the wait: it has not ended, it waits for a person.
    const pending = await fetch(`${api}${path}/result?wait=2`);
    expect(pending.status).toBe(202);
    expect(((await (await fetch(`${api}${path}`)).json()) as Answer).state).toContain(
      'awaitingApproval',
    );

    first.kill('SIGTERM');
    expect(await first.ended).toBe(0);

    const second = start();
    api = await addressOf(second);
    expect((await post(`${api}${path}/signals/approve`, { by: 'bob' })).status).toBe(202);
    const approved = (await (await fetch(`${api}${path}/result?wait=20`)).json()) as Answer;
    expect(approved).toMatchObject({ status: 'completed', output: { outcome: 'completed' } });

    const third = start();
    expect(await third.ended).toBe(78);
    expect(third.said()).toMatch(/DATA_FOLDER_LOCKED.*in use by process \d+/);

    second.kill('SIGINT');
    expect(await second.ended).toBe(0);
  });

  test('comes back after kill -9, with all that it had acknowledged', async () => {
    const first = start();
    const api = await addressOf(first);
    const accepted = await Promise.all(
      Array.from({ length: 20 }, (_, index) => startOrder(api, { orderId: `k-${index}` })),
    );
    first.kill('SIGKILL');
    await first.ended;
    const again = await addressOf(start());
    const results = await Promise.all(
      accepted.map(
        async ({ body }) =>
          (await (await fetch(`${again}/v1/sagas/${body.sagaId}/result?wait=60`)).json()) as Answer,
      ),
    );
    expect(results.map(({ status }) => status)).toEqual(accepted.map(() => 'completed'));
    processes.at(-1)?.kill('SIGTERM');
    expect(await processes.at(-1)?.ended).toBe(0);
  });

  test('says what to do about a taken port, and stops what it had started', async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    const port = String((holder.address() as AddressInfo).port);
    const process = start({ SAGAX_PORT: port });
    expect(await process.ended).toBe(78);
    expect(process.said()).toContain('PORT_TAKEN');
    expect(process.said()).toContain('SAGAX_PORT=8081 npm start');
    holder.close();
    // The folder is free again: nothing was left running.
    const next = start();
    await addressOf(next);
    next.kill('SIGTERM');
    expect(await next.ended).toBe(0);
  });

  test('names every wrong setting, its unit and an example', async () => {
    const process = start({
      SAGAX_SHARD_LEASE_MS: '5 s',
      KAFKA_BROKERS: 'localhost',
      SAGAX_PROT: '1',
      DATABASE_URL: 'mysql://user:geheim@x/y',
    });
    expect(await process.ended).toBe(78);
    const said = process.said();
    expect(said).toMatch(
      /SAGAX_SHARD_LEASE_MS="5 s".*milliseconds.*Example: SAGAX_SHARD_LEASE_MS=10000/,
    );
    expect(said).toMatch(/KAFKA_BROKERS.*host:port/);
    expect(said).toContain('SAGAX_PROT is no setting');
    expect(said).not.toContain('geheim');
  });
});
