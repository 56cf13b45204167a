/** Signals, cancels, pause and resume. */
import { describe, expect, it } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { openApi } from './support.ts';

const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 0);
const post = (path: string, payload?: object, headers: Record<string, string> = {}) => ({
  method: 'POST' as const,
  url: `/v1/sagas/${SAGA}/${path}`,
  headers,
  ...(payload !== undefined && { payload }),
});

describe('signals', () => {
  it('are checked against the version of the saga, and accepted', async () => {
    const { app, inbox, become, published } = await openApi();
    become({ sagaId: SAGA, definitionVersion: 1 });
    const response = await app.inject(
      post('signals/approve', { by: 'ann', extra: 1 }, { 'idempotency-key': 's-1' }),
    );
    expect(response.statusCode).toBe(202);
    expect(response.json()).toMatchObject({ sagaId: SAGA, status: 'accepted', inputId: 's-1' });
    expect(inbox()).toEqual([
      {
        type: 'signal',
        body: {
          sagaId: SAGA,
          namespace: 'default',
          signalId: 's-1',
          name: 'approve',
          payload: { by: 'ann', extra: 1 },
        },
      },
    ]);
    expect(published[0]?.headers['ce_id']).toBe(`signal:${SAGA}:s-1`);
    const other = await app.inject(post('signals/approve', { by: 'bob' }));
    expect(other.json().inputId).toMatch(/^\d+$/);
  });

  it.each([
    ['signals/approve', { by: '' }, 422, 'INPUT_INVALID'],
    ['signals/approve', undefined, 422, 'INPUT_INVALID'],
    ['signals/approve', [1], 422, 'INPUT_INVALID'],
    ['signals/decline', { by: 'ann' }, 422, 'SIGNAL_UNKNOWN'],
    ['signals/toString', { by: 'ann' }, 422, 'SIGNAL_UNKNOWN'],
  ])('refuse %s %j', async (path, payload, status, code) => {
    const { app, published, become } = await openApi();
    become({ sagaId: SAGA });
    const response = await app.inject(post(path, payload));
    expect([response.statusCode, response.json().code]).toEqual([status, code]);
    expect(published).toEqual([]);
  });

  it('name the known ones when refused', async () => {
    const { app, become } = await openApi();
    become({ sagaId: SAGA });
    const response = await app.inject(post('signals/decline', {}));
    expect(response.json().detail).toContain('declares no signal "decline". Known: approve.');
  });

  it('say so when this process lacks the version', async () => {
    const { app, become } = await openApi();
    become({ sagaId: SAGA, definitionVersion: 7 });
    const response = await app.inject(post('signals/approve', { by: 'ann' }));
    expect([response.statusCode, response.json().code]).toEqual([404, 'DEFINITION_UNKNOWN']);
  });
});

describe('cancel', () => {
  it('is accepted with its reason', async () => {
    const { app, become, inbox } = await openApi();
    become({ sagaId: SAGA });
    const response = await app.inject(post('cancel', { reason: 'changed my mind', by: 'ann' }));
    expect(response.statusCode).toBe(202);
    const requestId = response.json().inputId;
    expect(inbox()).toEqual([
      {
        type: 'cancel',
        body: {
          sagaId: SAGA,
          namespace: 'default',
          requestId,
          reason: 'changed my mind',
          by: 'ann',
        },
      },
    ]);
  });

  it('is refused past the pivot (I7)', async () => {
    const { app, become, published } = await openApi();
    become({ sagaId: SAGA, pivotPassed: true, state: 'telling' });
    const response = await app.inject(post('cancel', { reason: 'late' }));
    expect([response.statusCode, response.json().code]).toEqual([409, 'PIVOT_PASSED']);
    expect(published).toEqual([]);
  });
});

describe('ended sagas (I5)', () => {
  it.each(['cancel', 'pause', 'resume', 'retry', 'signals/approve'])('take no %s', async (path) => {
    const { app, become, published } = await openApi();
    become({ sagaId: SAGA, status: 'compensated' });
    const response = await app.inject(post(path, { by: 'ann' }));
    expect([response.statusCode, response.json().code]).toEqual([409, 'SAGA_ENDED']);
    expect(published).toEqual([]);
  });
});

describe('operator verbs', () => {
  it.each(['pause', 'resume', 'retry'] as const)('%s, with or without a body', async (verb) => {
    const { app, become, inbox } = await openApi();
    become({ sagaId: SAGA, status: 'paused' });
    expect((await app.inject(post(verb))).statusCode).toBe(202);
    const key = { 'idempotency-key': 'op-1' };
    expect((await app.inject(post(verb, { reason: 'why', by: 'ops' }, key))).statusCode).toBe(202);
    expect(inbox().map(({ type }) => type)).toEqual(['operator', 'operator']);
    expect(inbox()[0]?.body).toMatchObject({ by: 'api', reason: '', action: { verb } });
    expect(inbox()[1]?.body).toMatchObject({ by: 'ops', reason: 'why', requestId: `${verb}:op-1` });
  });

  it('are no repeats of another verb with the same key', async () => {
    const { app, become, inbox } = await openApi();
    become({ sagaId: SAGA });
    const key = { 'idempotency-key': 'op-1' };
    for (const verb of ['pause', 'resume', 'pause']) await app.inject(post(verb, undefined, key));
    const ids = inbox().map(({ body }) => ('requestId' in body ? body.requestId : ''));
    expect([ids[0] === ids[1], ids[0] === ids[2]]).toEqual([false, true]);
  });

  it('need the saga to be there', async () => {
    const { app } = await openApi();
    expect((await app.inject(post('pause'))).json().code).toBe('SAGA_UNKNOWN');
  });
});
