/** Verbs on commands: retry, resolve, skip, and completing a pending one. */
import { describe, expect, it } from 'vitest';
import type { SagaEvent } from '../../engine/core/events.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { beginning, openApi } from './support.ts';

const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 0);
const BOOK = `${SAGA}.1`;
const UNDO = `${BOOK}.c`;
const post = (commandId: string, verb: string, payload?: object) => ({
  method: 'POST' as const,
  url: `/v1/commands/${commandId}/${verb}`,
  ...(payload !== undefined && { payload }),
});
const compensation: SagaEvent = {
  type: 'CompensationRequested',
  commandId: UNDO,
  of: BOOK,
  command: 'travel.cancel-flight',
  input: { seat: '4A' },
};
const SETTLE = `${BOOK}.s`;
const settlement: SagaEvent = {
  type: 'SettlementRequested',
  commandId: SETTLE,
  of: BOOK,
  command: 'travel.book-flight',
};
const retried: SagaEvent = {
  type: 'CommandRetried',
  commandId: BOOK,
  op: 'do',
  attempt: 3,
  command: 'travel.book-flight',
  input: { city: 'Rome' },
};

async function opened(...more: SagaEvent[]) {
  const api = await openApi();
  api.log(SAGA, ...beginning(SAGA), ...more);
  return api;
}

describe('complete', () => {
  it('answers for the participant, at the newest attempt', async () => {
    const { app, inbox } = await opened(retried);
    const response = await app.inject(
      post(BOOK, 'complete', { outcome: 'succeeded', output: { seat: '4A', noise: 1 } }),
    );
    expect(response.statusCode).toBe(202);
    const address = { commandId: BOOK, sagaId: SAGA, namespace: 'default', attempt: 3 };
    expect(inbox()).toEqual([
      // As it was given: the engine parses it.
      {
        type: 'reply',
        body: { ...address, outcome: 'succeeded', output: { seat: '4A', noise: 1 } },
      },
    ]);
  });

  it('finds a command behind events that are more than is read at once', async () => {
    const api = await openApi();
    const large = (n: number): SagaEvent => ({
      type: 'TimerCleared',
      timerId: `${n}${'x'.repeat(900_000)}`,
    });
    api.log(SAGA, ...Array.from({ length: 10 }, (_, n) => large(n)), ...beginning(SAGA));
    const response = await api.app.inject(
      post(BOOK, 'complete', { outcome: 'succeeded', output: { seat: '4A' } }),
    );
    expect(response.statusCode).toBe(202);
    expect(api.inbox()).toMatchObject([{ type: 'reply', body: { commandId: BOOK } }]);
  });

  it('takes the rejections of the contract, and failures', async () => {
    const { app, inbox } = await opened();
    const soldOut = { code: 'SoldOut', data: { next: 'Friday' } };
    await app.inject(post(BOOK, 'complete', { outcome: 'rejected', failure: soldOut }));
    const broken = { code: 'Broken', message: 'smoke' };
    await app.inject(
      post(BOOK, 'complete', { outcome: 'failed', failure: broken, retryable: false }),
    );
    expect(inbox().map(({ body }) => body)).toMatchObject([
      { outcome: 'rejected', attempt: 1, failure: { ...soldOut, message: '' } },
      { outcome: 'failed', failure: broken, retryable: false },
    ]);
  });

  it.each([
    [BOOK, { outcome: 'succeeded', output: { seat: 4 } }, 422, 'body.output.seat'],
    [BOOK, { outcome: 'succeeded' }, 422, 'body.output'],
    [BOOK, { outcome: 'rejected', failure: { code: 'Nope' } }, 422, 'body.failure.code'],
    [BOOK, { outcome: 'rejected', failure: { code: 'toString' } }, 422, 'body.failure.code'],
    [
      BOOK,
      { outcome: 'rejected', failure: { code: 'SoldOut', data: {} } },
      422,
      'body.failure.data.next',
    ],
    [BOOK, { outcome: 'pending' }, 422, 'body.outcome'],
  ])('refuses an answer that the contract does not have %#', async (id, payload, status, path) => {
    const { app, published } = await opened();
    const response = await app.inject(post(id, 'complete', payload));
    expect([response.statusCode, response.json().issues[0].path]).toEqual([status, path]);
    expect(published).toEqual([]);
  });

  it('has no rejection for a compensation, and checks by its own contract', async () => {
    const { app, inbox } = await opened(compensation);
    const no = await app.inject(
      post(UNDO, 'complete', { outcome: 'rejected', failure: { code: 'No' } }),
    );
    expect(no.statusCode).toBe(422);
    const yes = await app.inject(post(UNDO, 'complete', { outcome: 'succeeded', output: {} }));
    expect(yes.statusCode).toBe(202);
    expect(inbox()).toHaveLength(1);
  });

  it('knows only commands that the log has', async () => {
    const { app } = await opened();
    const response = await app.inject(
      post(`${SAGA}.2`, 'complete', { outcome: 'succeeded', output: {} }),
    );
    expect([response.statusCode, response.json().code]).toEqual([404, 'COMMAND_UNKNOWN']);
    expect((await app.inject(post('5.1', 'retry'))).json().code).toBe('SAGA_UNKNOWN');
    expect((await app.inject(post('nonsense', 'retry'))).statusCode).toBe(400);
  });

  it('finds a command behind many pages of history', async () => {
    const pulses = Array.from({ length: 1_200 }, (_, n): SagaEvent => ({
      type: 'TimerCleared',
      timerId: `${n}`,
    }));
    const { app, inbox } = await opened(...pulses, compensation);
    expect((await app.inject(post(UNDO, 'retry'))).statusCode).toBe(202);
    expect(inbox()[0]?.body).toMatchObject({ action: { verb: 'retry', commandId: UNDO } });
  });

  it('is refused once the saga has ended', async () => {
    const { app, become } = await opened();
    become({ sagaId: SAGA, status: 'completed' });
    const response = await app.inject(
      post(BOOK, 'complete', { outcome: 'succeeded', output: { seat: 'x' } }),
    );
    expect(response.json().code).toBe('SAGA_ENDED');
  });
});

describe('operator verbs', () => {
  it('retry, skip and resolve become operator inputs', async () => {
    const { app, inbox } = await opened(compensation);
    await app.inject(post(BOOK, 'retry', { reason: 'mended' }));
    await app.inject(post(UNDO, 'skip', { reason: 'refunded by phone', by: 'ann' }));
    await app.inject(
      post(BOOK, 'resolve', { reason: 'seen in the back office', output: { seat: '1A' } }),
    );
    await app.inject(post(UNDO, 'resolve', { reason: 'done by hand' }));
    expect(inbox().map(({ body }) => body)).toMatchObject([
      { reason: 'mended', action: { verb: 'retry', commandId: BOOK } },
      { by: 'ann', action: { verb: 'skip', commandId: UNDO } },
      { action: { verb: 'resolve', commandId: BOOK, output: { seat: '1A' } } },
      { action: { verb: 'resolve', commandId: UNDO } },
    ]);
    expect(inbox()[3]?.body).not.toHaveProperty('action.output');
  });

  it('need a reason where something is taken as done, and an output that fits', async () => {
    const { app, published } = await opened(compensation);
    expect((await app.inject(post(UNDO, 'skip', {}))).statusCode).toBe(422);
    expect((await app.inject(post(UNDO, 'resolve', { reason: '' }))).statusCode).toBe(422);
    const wrong = await app.inject(post(BOOK, 'resolve', { reason: 'x', output: { seat: 1 } }));
    expect(wrong.json().issues[0].path).toBe('body.output.seat');
    expect((await app.inject(post(BOOK, 'resolve', { reason: 'x' }))).statusCode).toBe(422);
    expect(published).toEqual([]);
  });

  it('a settlement is resolved with the output of its step, which goes on as it was given', async () => {
    const { app, inbox } = await opened(settlement);
    const none = await app.inject(post(SETTLE, 'resolve', { reason: 'x' }));
    expect([none.statusCode, none.json().issues[0].path]).toEqual([422, 'body.output']);
    const wrong = await app.inject(post(SETTLE, 'resolve', { reason: 'x', output: { seat: 1 } }));
    expect([wrong.statusCode, wrong.json().issues[0].path]).toEqual([422, 'body.output.seat']);
    const output = { seat: '1A', noise: 1 };
    expect((await app.inject(post(SETTLE, 'resolve', { reason: 'x', output }))).statusCode).toBe(
      202,
    );
    expect(inbox()).toMatchObject([
      { body: { action: { verb: 'resolve', commandId: SETTLE, output } } },
    ]);
  });
});
