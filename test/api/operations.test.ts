/** Dead letters, shards, health, readiness, metrics, and the end of a process. */
import { once } from 'node:events';
import { Agent, get, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, it } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import type { StoredDeadLetter } from '../../engine/ports-read.ts';
import { openApi, type TestApi } from './support.ts';

const letter = (id: number, more: Partial<StoredDeadLetter> = {}): StoredDeadLetter => ({
  id: String(id),
  topic: 'test.inbox',
  partition: 2,
  offset: 9_007_199_254_740_993n,
  key: '77',
  headers: { ce_type: 'sagax.signal.v1', ce_id: 'x' },
  value: '{"broken":',
  code: 'MESSAGE_INVALID',
  reason: 'The body is not JSON.',
  at: Date.UTC(2026, 0, 1),
  redrivenAt: null,
  ...more,
});
const park = (api: TestApi, ...letters: StoredDeadLetter[]) =>
  api.memory.db.deadLetters.push(...letters);

describe('dead letters', () => {
  it('are listed newest first, in pages, without those that were redriven', async () => {
    const api = await openApi();
    park(api, ...[1, 2, 3, 4, 5].map((id) => letter(id)), letter(6, { redrivenAt: 5 }));
    const ids = (page: { items: { id: string }[] }) => page.items.map(({ id }) => id);
    const first = (await api.app.inject('/v1/dead-letters?limit=3')).json();
    expect(ids(first)).toEqual(['5', '4', '3']);
    const second = (await api.app.inject(first.links.next)).json();
    expect([ids(second), second.next]).toEqual([['2', '1'], null]);
    const all = (await api.app.inject('/v1/dead-letters?includeRedriven=true')).json();
    expect(ids(all)).toEqual(['6', '5', '4', '3', '2', '1']);
    const mixed = await api.app.inject(
      `/v1/dead-letters?includeRedriven=true&cursor=${first.next}`,
    );
    expect(mixed.json().code).toBe('CURSOR_INVALID');
  });

  it('show one, with its offset whole', async () => {
    const api = await openApi();
    park(api, letter(1));
    expect((await api.app.inject('/v1/dead-letters/1')).json()).toMatchObject({
      id: '1',
      offset: '9007199254740993',
      at: '2026-01-01T00:00:00.000Z',
      redrivenAt: null,
    });
    const unknown = await api.app.inject('/v1/dead-letters/2');
    expect([unknown.statusCode, unknown.json().code]).toEqual([404, 'DEAD_LETTER_UNKNOWN']);
    for (const id of ['9223372036854775808', '%00', 'x']) {
      expect((await api.app.inject(`/v1/dead-letters/${id}`)).statusCode).toBe(400);
    }
  });

  it('are published again as they were, once', async () => {
    const api = await openApi();
    park(api, letter(1));
    const redrive = { method: 'POST' as const, url: '/v1/dead-letters/1/redrive' };
    const response = await api.app.inject(redrive);
    expect([response.statusCode, response.json()]).toEqual([202, { id: '1', status: 'redriven' }]);
    const { topic, partition, key, headers, value } = letter(1);
    expect(api.published).toEqual([{ topic, partition, key, headers, value }]);
    const again = await api.app.inject(redrive);
    expect([again.statusCode, again.json().status]).toEqual([200, 'alreadyRedriven']);
    expect(api.published).toHaveLength(1);
  });

  it.each([
    ['a missing definition', 'DEFINITION_UNKNOWN'],
    // Of a command whose answer was too large; a message that is too large itself is cut.
    ['a refused answer', 'PAYLOAD_REFUSED'],
  ])('of any length are put back when they were kept whole: %s', async (_, code) => {
    const api = await openApi();
    const value = JSON.stringify({ text: 'x'.repeat(200_000) });
    park(api, letter(1, { value, code }));
    const response = await api.app.inject({ method: 'POST', url: '/v1/dead-letters/1/redrive' });
    expect(response.statusCode).toBe(202);
    expect(api.published.map((message) => message.value)).toEqual([value]);
  });

  it('stay when they cannot be published whole', async () => {
    const api = await openApi();
    park(
      api,
      letter(1, { value: 'x'.repeat(65_536) }),
      letter(2, { value: null }),
      letter(3, { key: null }),
    );
    const statuses = await Promise.all(
      [1, 2, 3].map(async (id) => {
        const response = await api.app.inject({
          method: 'POST',
          url: `/v1/dead-letters/${id}/redrive`,
        });
        return [response.statusCode, response.json().code];
      }),
    );
    expect(statuses).toEqual([
      [413, 'PAYLOAD_REFUSED'],
      [400, 'PAYLOAD_REFUSED'],
      [400, 'PAYLOAD_REFUSED'],
    ]);
    expect(api.published).toEqual([]);
    expect(api.memory.db.deadLetters.every(({ redrivenAt }) => redrivenAt === null)).toBe(true);
  });
});

describe('the process', () => {
  it('shows shards, index, health and metrics', async () => {
    const { app } = await openApi();
    expect((await app.inject('/v1/shards')).json()).toMatchObject({
      shards: 4,
      items: [
        { shard: 0, epoch: 0, owner: null, leaseExpiresAt: null, nextOffset: '0' },
        {},
        {},
        {},
      ],
    });
    const { links } = (await app.inject('/')).json();
    for (const link of Object.values(links as Record<string, string>)) {
      expect([link, (await app.inject(link)).statusCode]).toEqual([link, 200]);
    }
    expect((await app.inject({ method: 'HEAD', url: '/healthz' })).statusCode).toBe(200);
    await app.inject('/v1/sagas/1');
    const metrics = await app.inject('/metrics');
    expect(metrics.headers['content-type']).toContain('text/plain');
    expect(metrics.body).toContain(
      'sagax_api_request_duration_seconds_count{method="GET",route="/v1/sagas/:sagaId",status="404"} 1',
    );
  });

  it('sends requests elsewhere while it drains, as a problem', async () => {
    const { app, become } = await openApi();
    await app.listen({ host: '127.0.0.1', port: 0 });
    const { port } = app.server.address() as AddressInfo;
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const ask = async (path: string): Promise<IncomingMessage> => {
      const [response] = (await once(get({ port, path, agent }), 'response')) as [IncomingMessage];
      return response;
    };
    become({ sagaId: '1' });
    (await ask('/healthz')).resume();
    // What comes over a connection that is still busy when the close begins.
    const waiting = ask('/v1/sagas/1/result?wait=60');
    const late = ask('/healthz');
    await expect
      .poll(async () => (await app.inject('/metrics')).body, { timeout: 5_000 })
      .toContain('sagax_api_waiters 1');
    const closed = app.close();
    const first = await waiting;
    expect(first.statusCode).toBe(202);
    first.resume();
    const outcome = await late.then(
      (response) => {
        response.resume();
        return [response.statusCode, response.headers['retry-after']];
      },
      () => 'refused',
    );
    // The connection may be closed before the next request is read on it; then the client sees that.
    expect([[503, '1'], 'refused']).toContainEqual(outcome);
    await closed;
    agent.destroy();
  });

  it('is not ready when the bus fails, or the database hangs; healthy all the same', async () => {
    let pings = 0;
    const { app } = await openApi({
      bus: { ping: () => Promise.reject(new SagaxError('BUS_UNAVAILABLE', 'connect 10.0.0.7')) },
      reader: {
        ping: () => {
          pings += 1;
          return new Promise(() => undefined);
        },
      },
      options: { readyTimeoutMs: 20 },
    });
    const ready = await app.inject('/readyz');
    expect(ready.statusCode).toBe(503);
    expect(ready.headers['retry-after']).toBe('1');
    expect(ready.json()).toMatchObject({
      code: 'DATABASE_UNAVAILABLE',
      checks: { database: 'gave no answer in 20 ms', bus: 'failed (BUS_UNAVAILABLE)' },
    });
    expect(ready.body).not.toContain('10.0.0.7');
    // Probes share the ping that hangs.
    await Promise.all([app.inject('/readyz'), app.inject('/readyz')]);
    expect(pings).toBe(1);
    expect((await app.inject('/healthz')).statusCode).toBe(200);
  });

  it('is not ready while no ids can be made', async () => {
    let isLost = true;
    const { app } = await openApi({
      nextId: () => {
        if (isLost) throw new SagaxError('NODE_LEASE_LOST', 'No node id is leased now.');
        return '1';
      },
    });
    const ready = await app.inject('/readyz');
    expect(ready.statusCode).toBe(503);
    expect(ready.json()).toMatchObject({
      code: 'NODE_LEASE_LOST',
      checks: { database: 'ok', bus: 'ok', ids: 'failed (NODE_LEASE_LOST)' },
    });
    isLost = false;
    expect((await app.inject('/readyz')).statusCode).toBe(200);
  });
});
