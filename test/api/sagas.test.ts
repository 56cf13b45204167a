/** Looking at one saga, at its result, and at lists with filters and cursors. */
import { describe, expect, it } from 'vitest';
import { attributeValue } from '../../api/routes/sagas.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { openApi, type TestApi } from './support.ts';

const OLD_ID = composeSnowflake(Date.UTC(2025, 5, 1), 1, 0);

describe('get', () => {
  it('shows the summary with ISO times and links', async () => {
    const { app, become } = await openApi();
    become({
      sagaId: OLD_ID,
      status: 'compensated',
      state: 'cancelled',
      startedAt: Date.UTC(2026, 0, 2, 3, 4, 5, 6),
      endedAt: Date.UTC(2026, 0, 2, 4),
      failureCode: 'SoldOut',
      failureMessage: 'no seats',
      output: { n: 1 },
    });
    const response = await app.inject(`/v1/sagas/${OLD_ID}`);
    expect(response.statusCode).toBe(200);
    expect(response.json()).toMatchObject({
      sagaId: OLD_ID,
      version: 2,
      status: 'compensated',
      startedAt: '2026-01-02T03:04:05.006Z',
      endedAt: '2026-01-02T04:00:00.000Z',
      failure: { code: 'SoldOut', message: 'no seats' },
      output: { n: 1 },
      links: {
        self: `/v1/sagas/${OLD_ID}`,
        definition: '/v1/definitions/visit/versions/2',
      },
    });
  });

  it('keeps namespaces apart', async () => {
    const { app, become } = await openApi();
    become({ sagaId: OLD_ID, namespace: 'emea' });
    expect((await app.inject(`/v1/sagas/${OLD_ID}`)).statusCode).toBe(404);
    expect((await app.inject(`/v1/namespaces/emea/sagas/${OLD_ID}`)).statusCode).toBe(200);
  });

  it('waits for a saga accepted a moment ago, not for an old id', async () => {
    const { app, become, ids } = await openApi({ options: { visibilityWaitMs: 5_000 } });
    const sagaId = ids.next();
    const pending = app.inject(`/v1/sagas/${sagaId}`);
    setImmediate(() => become({ sagaId }));
    expect((await pending).json()).toMatchObject({ sagaId, status: 'running' });
    const old = await app.inject(`/v1/sagas/${OLD_ID}`);
    expect([old.statusCode, old.json().code]).toEqual([404, 'SAGA_UNKNOWN']);
  });

  it('refuses what is no id, and ids that no database could keep', async () => {
    const { app } = await openApi();
    for (const id of ['0', '01', '-5', '1e5', '9999999999999999999', '%00']) {
      const response = await app.inject(`/v1/sagas/${id}`);
      expect([id, response.statusCode]).toEqual([id, 400]);
    }
  });
});

describe('result', () => {
  it('answers 202 at the end of the wait, 200 once it ended', async () => {
    const { app, become } = await openApi();
    become({ sagaId: OLD_ID, status: 'stuck', failureCode: 'COMPENSATION_FAILED' });
    const early = await app.inject(`/v1/sagas/${OLD_ID}/result`);
    expect([early.statusCode, early.json().status]).toEqual([202, 'stuck']);
    const pending = app.inject(`/v1/sagas/${OLD_ID}/result?wait=30`);
    setImmediate(() =>
      become({
        sagaId: OLD_ID,
        status: 'completed',
        output: 7,
        streamVersion: 5,
        failureCode: null,
      }),
    );
    const response = await pending;
    expect(response.statusCode).toBe(200);
    expect(response.json()).toMatchObject({ status: 'completed', output: 7, failure: null });
  });

  it('asks the database once a tick, however many wait', async () => {
    const widths: number[] = [];
    const api = await openApi({
      reader: {
        getMany: async (keys) => {
          widths.push(keys.length);
          return api.memory.reader.getMany(keys);
        },
      },
    });
    const { app, become } = api;
    const all = Array.from({ length: 40 }, (_, n) => composeSnowflake(Date.UTC(2025, 5, 1), 1, n));
    for (const sagaId of all) become({ sagaId });
    const pending = all.flatMap((id) =>
      [1, 2, 3].map(() => app.inject(`/v1/sagas/${id}/result?wait=30`)),
    );
    await expect.poll(() => Math.max(0, ...widths), { timeout: 5_000 }).toBe(40);
    for (const sagaId of all) become({ sagaId, status: 'completed', streamVersion: 3 });
    const statuses = (await Promise.all(pending)).map((response) => response.statusCode);
    expect(statuses).toEqual(Array.from({ length: 120 }, () => 200));
    // 120 waiters over 40 sagas: far fewer queries than waiters.
    expect(widths.length).toBeLessThan(40);
  });

  it('refuses more waiters than it may have', async () => {
    const { app, become } = await openApi({ options: { maxWaiters: 1 } });
    become({ sagaId: OLD_ID });
    const first = app.inject(`/v1/sagas/${OLD_ID}/result?wait=30`);
    await expect
      .poll(async () => (await app.inject('/metrics')).body)
      .toContain('sagax_api_waiters 1');
    const second = await app.inject(`/v1/sagas/${OLD_ID}/result?wait=30`);
    expect([second.statusCode, second.json().code]).toEqual([503, 'OVERLOADED']);
    become({ sagaId: OLD_ID, status: 'completed', streamVersion: 2 });
    expect((await first).statusCode).toBe(200);
    expect((await app.inject('/metrics')).body).toContain('sagax_api_waiters 0');
  });

  it('ends its waits when the API closes', async () => {
    const { app, become } = await openApi();
    become({ sagaId: OLD_ID });
    const pending = app.inject(`/v1/sagas/${OLD_ID}/result?wait=60`);
    await expect
      .poll(async () => (await app.inject('/metrics')).body)
      .toContain('sagax_api_waiters 1');
    await app.close();
    expect((await pending).statusCode).toBe(202);
  });

  it('answers 503 when the database is away at the end of the wait', async () => {
    const down = () => Promise.reject(new SagaxError('DATABASE_UNAVAILABLE', 'gone'));
    const { app, become } = await openApi({ reader: { getMany: down } });
    become({ sagaId: OLD_ID });
    const response = await app.inject(`/v1/sagas/${OLD_ID}/result?wait=1`);
    expect([response.statusCode, response.json().code]).toEqual([503, 'DATABASE_UNAVAILABLE']);
  });
});

describe('list', () => {
  const seed = (api: TestApi, count: number) =>
    Array.from({ length: count }, (_, n) => {
      const sagaId = composeSnowflake(Date.UTC(2025, 5, 1), 1, n);
      api.become({
        sagaId,
        status: n % 2 === 0 ? 'completed' : 'running',
        attributes: { customer: n < 3 ? 'ann' : 'bob', level: n },
        startedAt: Date.UTC(2026, 0, 1) + n * 1_000,
      });
      return sagaId;
    });

  it('pages through all, newest first, with the next link', async () => {
    const api = await openApi();
    const all = seed(api, 25).reverse();
    const seen: string[] = [];
    let url: string | undefined = '/v1/sagas?limit=10&definition=visit';
    let pages = 0;
    while (url !== undefined && pages < 10) {
      const page: { items: { sagaId: string }[]; links: { next?: string } } = (
        await api.app.inject(url)
      ).json();
      seen.push(...page.items.map(({ sagaId }) => sagaId));
      url = page.links.next;
      pages += 1;
    }
    expect(seen).toEqual(all);
    expect(pages).toBe(3);
  });

  it('filters by status, attributes and time', async () => {
    const api = await openApi();
    seed(api, 10);
    const count = async (query: string) =>
      (await api.app.inject(`/v1/sagas?${query}`)).json().items.length;
    expect(await count('status=running')).toBe(5);
    expect(await count('status=running,completed')).toBe(10);
    expect(await count('status=running&status=stuck')).toBe(5);
    expect(await count('attribute.customer=ann')).toBe(3);
    expect(await count('attribute.customer=ann&attribute.level=1')).toBe(1);
    expect(await count('startedFrom=2026-01-01T00:00:08Z')).toBe(2);
    expect(
      await count('startedFrom=2026-01-01T01:00:02%2B01:00&startedBefore=2026-01-01T00:00:04Z'),
    ).toBe(2);
    expect(await count('version=1')).toBe(0);
  });

  it('refuses cursors of other lists, and names parameters that it does not know', async () => {
    const api = await openApi();
    seed(api, 5);
    const { next } = (await api.app.inject('/v1/sagas?limit=2')).json();
    const problem = async (query: string) => {
      const response = await api.app.inject(`/v1/sagas?${query}`);
      return [response.statusCode, response.json().code, response.json().detail];
    };
    const [status, code] = await problem(`limit=2&status=running&cursor=${next}`);
    expect([status, code]).toEqual([400, 'CURSOR_INVALID']);
    expect((await problem('cursor=AAAA'))[1]).toBe('CURSOR_INVALID');
    expect((await api.app.inject(`/v1/sagas?limit=3&cursor=${next}`)).json().items).toHaveLength(3);
    expect((await problem('state=x'))[2]).toContain('query.state: unknown');
    expect((await problem('attribute.=x'))[0]).toBe(400);
    expect((await problem('businessKey=a%00b'))[0]).toBe(400);
    expect((await problem('limit=201'))[0]).toBe(400);
    expect((await problem('limit='))[0]).toBe(400);
    expect((await problem('definition=a&definition=b'))[0]).toBe(400);
    expect((await problem('startedFrom=2026-02-31T00:00:00Z'))[0]).toBe(400);
    expect(
      (await problem('startedFrom=2026-02-01T00:00:00Z&startedBefore=2026-01-01T00:00:00Z'))[0],
    ).toBe(400);
  });

  it('takes attribute values as JSON where they look like it', () => {
    expect(['true', 'false', '42', '-1.5', '007', '"42"', 'ann', ''].map(attributeValue)).toEqual([
      true,
      false,
      42,
      -1.5,
      '007',
      '42',
      'ann',
      '',
    ]);
  });
});
