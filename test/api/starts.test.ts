/** Starts: keys, repeats, batches, waiting, and what is said when the bus or the database is away. */
import { describe, expect, it } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { openApi } from './support.ts';

const start = (payload: object, headers: Record<string, string> = {}) => ({
  method: 'POST' as const,
  url: '/v1/sagas',
  payload,
  headers,
});
const rome = { definition: 'visit', input: { city: 'Rome' } };

describe('start', () => {
  it('answers 202 with the id, once the message is in the bus, in the partition of its key', async () => {
    const { app, published, inbox } = await openApi();
    const trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const response = await app.inject(
      start(
        { ...rome, businessKey: 'trip-7', attributes: { customer: 'ann', vip: true } },
        { traceparent: trace },
      ),
    );
    expect(response.statusCode).toBe(202);
    const { sagaId, ...rest } = response.json();
    expect(response.headers['location']).toBe(`/v1/sagas/${sagaId}`);
    expect(rest).toMatchObject({ definition: 'visit', version: 2, status: 'accepted' });
    expect(inbox()).toEqual([
      {
        type: 'start',
        body: {
          sagaId,
          namespace: 'default',
          definition: 'visit',
          definitionVersion: 2,
          // What the schema gives, not what came: the default is filled in.
          input: { city: 'Rome', cents: 100 },
          businessKey: 'trip-7',
          attributes: { customer: 'ann', vip: true },
          traceparent: trace,
        },
      },
    ]);
    expect(published[0]).toMatchObject({
      topic: 'test.inbox',
      key: sagaId,
      partition: partitionOf(sagaId, 4),
      headers: { ce_type: 'sagax.start.v1', ce_traceparent: trace, ce_subject: sagaId },
    });
  });

  it('takes the version that is named, and the namespace of the path', async () => {
    const { app, inbox } = await openApi({ namespaces: ['emea'] });
    const response = await app.inject({
      ...start({ ...rome, version: 1 }),
      url: '/v1/namespaces/emea/sagas',
    });
    expect(response.statusCode).toBe(202);
    expect(response.headers['location']).toBe(
      `/v1/namespaces/emea/sagas/${response.json().sagaId}`,
    );
    expect(inbox()[0]?.body).toMatchObject({ namespace: 'emea', definitionVersion: 1 });
    const other = await app.inject({ ...start(rome), url: '/v1/namespaces/apac/sagas' });
    expect([other.statusCode, other.json().code]).toEqual([404, 'NAMESPACE_UNKNOWN']);
  });

  it('refuses an input that the definition does not take, naming where', async () => {
    const { app, published } = await openApi();
    const response = await app.inject(start({ definition: 'visit', input: { cents: 'many' } }));
    expect(response.statusCode).toBe(422);
    expect(response.headers['content-type']).toContain('application/problem+json');
    const problem = response.json();
    expect(problem).toMatchObject({
      type: 'urn:sagax:error:INPUT_INVALID',
      code: 'INPUT_INVALID',
      status: 422,
      instance: '/v1/sagas',
    });
    expect(problem.issues.map((issue: { path: string }) => issue.path)).toEqual([
      'body.input.city',
      'body.input.cents',
    ]);
    expect(published).toEqual([]);
  });

  it.each([
    [{ definition: 'nope', input: {} }, 404, 'DEFINITION_UNKNOWN'],
    [{ ...rome, version: 9 }, 404, 'DEFINITION_UNKNOWN'],
    [{ ...rome, sagaId: '1' }, 422, 'INPUT_INVALID'],
    [{ ...rome, attributes: { 'not a name': 1 } }, 422, 'INPUT_INVALID'],
    [{ ...rome, input: { city: 'x', note: 'n'.repeat(950_000) } }, 413, 'PAYLOAD_REFUSED'],
  ])('refuses %#', async (payload, status, code) => {
    const { app, published } = await openApi();
    const response = await app.inject(start(payload));
    expect([response.statusCode, response.json().code]).toEqual([status, code]);
    expect(published).toEqual([]);
  });

  it('ignores a traceparent that is not valid', async () => {
    const { app, inbox, published } = await openApi();
    const trace = '00-00000000000000000000000000000000-b7ad6b7169203331-01';
    expect((await app.inject(start(rome, { traceparent: trace }))).statusCode).toBe(202);
    expect(inbox()[0]?.body).not.toHaveProperty('traceparent');
    expect(published[0]?.headers).not.toHaveProperty('ce_traceparent');
  });
});

describe('keys', () => {
  it('gives one saga id to 50 concurrent repeats (I4)', async () => {
    const { app, inbox } = await openApi();
    const responses = await Promise.all(
      Array.from({ length: 50 }, () => app.inject(start(rome, { 'idempotency-key': 'k-1' }))),
    );
    const ids = new Set(responses.map((response) => response.json().sagaId));
    expect(ids.size).toBe(1);
    const fresh = responses.filter((response) => response.statusCode === 202);
    expect(fresh).toHaveLength(1);
    expect(
      responses.filter((response) => response.headers['idempotent-replay'] === 'true'),
    ).toHaveLength(49);
    // Whatever was published again is for that saga, and the shard drops a second start.
    expect(new Set(inbox().map(({ body }) => body.sagaId))).toEqual(ids);
  });

  it('publishes again on a repeat only while the saga is not there', async () => {
    const { app, published, become } = await openApi();
    const first = await app.inject(start(rome, { 'idempotency-key': 'k' }));
    const { sagaId } = first.json();
    const second = await app.inject(start(rome, { 'idempotency-key': 'k' }));
    expect([second.statusCode, second.json().sagaId]).toEqual([200, sagaId]);
    expect(published).toHaveLength(2);
    become({ sagaId, status: 'completed', endedAt: 1, output: { ok: true } });
    const third = await app.inject(start(rome, { 'idempotency-key': 'k' }));
    expect(third.json()).toMatchObject({ sagaId, status: 'completed', output: { ok: true } });
    expect(published).toHaveLength(2);
  });

  it('refuses a key that comes with another request', async () => {
    const { app, published } = await openApi();
    await app.inject(start(rome, { 'idempotency-key': 'k' }));
    const other = { definition: 'visit', input: { city: 'Oslo' } };
    const response = await app.inject(start(other, { 'idempotency-key': 'k' }));
    expect([response.statusCode, response.json().code]).toEqual([409, 'KEY_REUSED']);
    await app.inject(start({ ...rome, businessKey: 'b' }));
    const taken = await app.inject(start({ ...other, businessKey: 'b' }));
    expect([taken.statusCode, taken.json().code]).toEqual([409, 'KEY_REUSED']);
    expect(published).toHaveLength(2);
  });

  const reservedBefore = async (days: number, isKept: boolean) => {
    const api = await openApi({ reader: { isKept: async () => isKept } });
    await api.app.inject(start(rome, { 'idempotency-key': 'k' }));
    const [key, reserved] = [...api.memory.db.startKeys][0] ?? ['', { fingerprint: '' }];
    const sagaId = composeSnowflake(Date.now() - days * 86_400_000, 1, 0);
    api.memory.db.startKeys.set(key, { ...reserved, sagaId });
    const response = await api.app.inject(start(rome, { 'idempotency-key': 'k' }));
    return { sagaId, response, again: api.published.slice(1).map((message) => message.key) };
  };

  it.each([[1], [8]])('does not start again what may have been dropped: %i days', async (days) => {
    const { response, again } = await reservedBefore(days, false);
    expect([response.statusCode, response.json().code]).toEqual([409, 'KEY_REUSED']);
    expect(again).toEqual([]);
  });

  it.each([
    ['weeks later, while its week is kept', 20, true],
    ['within hours, when nothing can have been dropped', 0.25, false],
  ])('starts what never came through, %s', async (_when, days, isKept) => {
    const { response, again, sagaId } = await reservedBefore(days, isKept);
    expect([response.statusCode, response.json().sagaId]).toEqual([200, sagaId]);
    expect(again).toEqual([sagaId]);
  });

  it('is reserved before the publish, so a repeat after a failed one gets the same id', async () => {
    let broken = true;
    const sent: string[] = [];
    const { app } = await openApi({
      bus: {
        publish: async (messages) => {
          if (broken) throw new SagaxError('BUS_UNAVAILABLE', 'connect ECONNREFUSED 10.1.2.3:9092');
          sent.push(...messages.map(({ key }) => key));
        },
      },
    });
    const failed = await app.inject(start(rome, { 'idempotency-key': 'k' }));
    expect([failed.statusCode, failed.json().code]).toEqual([503, 'BUS_UNAVAILABLE']);
    expect(failed.headers['retry-after']).toBe('1');
    expect(failed.body).not.toContain('10.1.2.3');
    broken = false;
    const repeated = await app.inject(start(rome, { 'idempotency-key': 'k' }));
    expect(repeated.statusCode).toBe(200);
    expect(sent).toEqual([repeated.json().sagaId]);
  });

  it('needs no database when there is none to reserve', async () => {
    const down = () =>
      Promise.reject(new SagaxError('DATABASE_UNAVAILABLE', 'no route to host db-1'));
    const { app } = await openApi({ startKeys: { reserve: down } });
    expect((await app.inject(start(rome))).statusCode).toBe(202);
    const keyed = await app.inject(start(rome, { 'idempotency-key': 'k' }));
    expect([keyed.statusCode, keyed.json().code]).toEqual([503, 'DATABASE_UNAVAILABLE']);
    expect(keyed.body).not.toContain('db-1');
  });
});

describe('Prefer: wait', () => {
  it('answers 200 with the output when the saga ends in time', async () => {
    const { app, become, memory } = await openApi();
    const pending = app.inject(start(rome, { prefer: 'wait=20', 'idempotency-key': 'k' }));
    // The reservation is what tells the id from outside while the request waits.
    while (memory.db.startKeys.size === 0) await new Promise(setImmediate);
    const [reserved] = memory.db.startKeys.values();
    become({ sagaId: reserved!.sagaId, status: 'completed', output: { n: 1 }, streamVersion: 9 });
    const response = await pending;
    expect(response.statusCode).toBe(200);
    expect(response.headers['preference-applied']).toBe('wait=20');
    expect(response.json()).toMatchObject({ status: 'completed', output: { n: 1 } });
  });

  it('answers 202 when it does not, and when nobody may wait any more', async () => {
    const { app } = await openApi({ options: { maxWaiters: 0 } });
    const response = await app.inject(start(rome, { prefer: 'respond-async, wait=5' }));
    expect([response.statusCode, response.json().status]).toEqual([202, 'accepted']);
  });
});

describe('batch', () => {
  const batch = (items: unknown[], headers: Record<string, string> = {}) => ({
    method: 'POST' as const,
    url: '/v1/sagas/batch',
    payload: { items },
    headers,
  });

  it('starts 1,000 in one publish', async () => {
    const { app, publishes, published } = await openApi();
    const items = Array.from({ length: 1_000 }, (_, n) => ({
      definition: 'visit',
      input: { city: `c${n}` },
    }));
    const response = await app.inject(batch(items));
    expect(response.statusCode).toBe(200);
    expect(response.json()).toMatchObject({ accepted: 1_000, refused: 0 });
    expect(publishes).toEqual([1_000]);
    expect(new Set(published.map(({ key }) => key)).size).toBe(1_000);
    const tooMany = await app.inject(batch([...items, items[0]]));
    expect(tooMany.statusCode).toBe(422);
  });

  it('refuses bad items alone', async () => {
    const { app, inbox } = await openApi();
    const response = await app.inject(
      batch([rome, { definition: 'nope', input: {} }, { definition: 'visit', input: {} }, 7]),
    );
    const { accepted, refused, items } = response.json();
    expect([accepted, refused]).toEqual([1, 3]);
    expect(items.map((item: { problem?: { code: string } }) => item.problem?.code)).toEqual([
      undefined,
      'DEFINITION_UNKNOWN',
      'INPUT_INVALID',
      'INPUT_INVALID',
    ]);
    expect(items[2].problem.issues[0].path).toBe('body.items.2.input.city');
    expect(inbox()).toHaveLength(1);
  });

  it('repeats as a whole under one key, and makes one saga of items with one key', async () => {
    const { app, inbox } = await openApi();
    const first = await app.inject(batch([rome, rome], { 'idempotency-key': 'b' }));
    const again = await app.inject(batch([rome, rome], { 'idempotency-key': 'b' }));
    const ids = (response: typeof first) =>
      response.json().items.map((item: { sagaId: string }) => item.sagaId);
    expect(ids(again)).toEqual(ids(first));
    expect(new Set(ids(first)).size).toBe(2);
    const before = inbox().length;
    const same = { ...rome, idempotencyKey: 'x' };
    const twins = await app.inject(batch([same, same]));
    expect(new Set(ids(twins)).size).toBe(1);
    expect(inbox()).toHaveLength(before + 1);
  });

  it('answers 503 when the publish fails', async () => {
    const { app } = await openApi({
      bus: { publish: () => Promise.reject(new SagaxError('BUS_UNAVAILABLE', 'gone')) },
    });
    expect((await app.inject(batch([rome]))).statusCode).toBe(503);
  });
});
