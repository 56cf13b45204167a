/** History by pages and as an event stream. */
import { once } from 'node:events';
import { get as httpGet, type IncomingMessage } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { settle } from '../../engine/memory/index.ts';
import { beginning, openApi, type Overrides, type TestApi } from './support.ts';

const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 0);
const pulse = (n: number): SagaEvent => ({ type: 'TimerSet', timerId: `t${n}`, dueAt: n });
/** As large as an event can be, nearly. */
const large = (n: number): SagaEvent => ({
  type: 'TimerCleared',
  timerId: `${n}${'x'.repeat(900_000)}`,
});
const completed: SagaEvent = { type: 'SagaCompleted', output: { ok: true } };

interface Frame {
  id?: string;
  event?: string;
  data?: string;
  comment?: string;
}

/** An event stream read over a real connection, frame by frame. */
class Stream {
  readonly #frames: AsyncGenerator<Frame>;
  readonly response: IncomingMessage;

  constructor(response: IncomingMessage) {
    this.response = response;
    this.#frames = framesOf(response);
  }

  async next(): Promise<Frame | undefined> {
    const { value, done } = await this.#frames.next();
    return done === true ? undefined : value;
  }

  async take(count: number): Promise<Frame[]> {
    const frames: Frame[] = [];
    while (frames.length < count) {
      const frame = await this.next();
      if (frame === undefined) break;
      frames.push(frame);
    }
    return frames;
  }
}

async function* framesOf(response: IncomingMessage): AsyncGenerator<Frame> {
  let text = '';
  response.setEncoding('utf8');
  for await (const chunk of response) {
    text += chunk as string;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      yield Object.fromEntries(
        text
          .slice(0, end)
          .split('\n')
          .map((line) =>
            line.startsWith(':') ? ['comment', line.slice(2)] : line.split(/: (.*)/s),
          ),
      ) as Frame;
      text = text.slice(end + 2);
    }
  }
}

const opened: TestApi[] = [];
afterEach(async () => {
  for (const api of opened.splice(0)) await api.app.close();
});

async function listen(overrides: Overrides = {}) {
  const api = await openApi(overrides);
  opened.push(api);
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = api.app.server.address() as AddressInfo;
  const follow = async (path = '', headers: Record<string, string> = {}): Promise<Stream> => {
    const url = `http://127.0.0.1:${port}/v1/sagas/${SAGA}/history/stream${path}`;
    const request = httpGet(url, { headers, agent: false });
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    return new Stream(response);
  };
  const waiters = async () =>
    /sagax_api_waiters (\d+)/.exec((await api.app.inject('/metrics')).body)?.[1];
  return { ...api, port, follow, waiters };
}

describe('history', () => {
  it('gives events in order, in pages', async () => {
    const { app, log } = await openApi();
    log(SAGA, ...beginning(SAGA), pulse(1), pulse(2), completed);
    const first = (await app.inject(`/v1/sagas/${SAGA}/history?limit=2`)).json();
    expect(first).toMatchObject({
      sagaId: SAGA,
      next: 2,
      items: [
        { streamVersion: 1, type: 'SagaStarted', data: { input: { city: 'Rome' } } },
        { streamVersion: 2, type: 'StepRequested', data: { commandId: `${SAGA}.1` } },
      ],
    });
    expect(first.items[0].data).not.toHaveProperty('type');
    const rest = (await app.inject(`/v1/sagas/${SAGA}/history?after=2`)).json();
    expect(rest.items.map((item: { type: string }) => item.type)).toEqual([
      'TimerSet',
      'TimerSet',
      'SagaCompleted',
    ]);
    expect([rest.next, rest.links]).toEqual([null, {}]);
    expect((await app.inject(first.links.next)).json().items).toHaveLength(2);
    expect((await app.inject('/v1/sagas/1/history')).statusCode).toBe(404);
  });

  it('gives fewer events than asked for where they are large, and goes on behind them', async () => {
    const { app, log } = await openApi();
    log(SAGA, ...Array.from({ length: 12 }, (_, n) => large(n)));
    const first = await app.inject(`/v1/sagas/${SAGA}/history?limit=1000`);
    expect(first.body.length).toBeLessThan(10_000_000);
    expect([first.json().items.length, first.json().next]).toEqual([9, 9]);
    const second = (await app.inject(first.json().links.next)).json();
    expect([second.items.length, second.next, second.links]).toEqual([3, null, {}]);
    expect(second.items[0].streamVersion).toBe(10);
  });
});

describe('event stream', () => {
  it('replays, follows live, and ends after the terminal event', async () => {
    const { log, become, follow, waiters } = await listen();
    log(SAGA, ...beginning(SAGA));
    const stream = await follow();
    expect(stream.response.statusCode).toBe(200);
    expect(stream.response.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
    });
    expect(stream.response.headers['x-request-id']).toMatch(/./);
    const [retry, one, two] = await stream.take(3);
    expect(retry).toHaveProperty('retry', '1000');
    expect([one?.id, one?.event, two?.id, two?.event]).toEqual([
      '1',
      'SagaStarted',
      '2',
      'StepRequested',
    ]);
    expect(JSON.parse(one?.data ?? '')).toMatchObject({ streamVersion: 1, type: 'SagaStarted' });
    log(SAGA, pulse(1));
    expect(await stream.next()).toMatchObject({ id: '3', event: 'TimerSet' });
    log(SAGA, completed);
    become({ sagaId: SAGA, status: 'completed', endedAt: 1 });
    expect(await stream.next()).toMatchObject({ id: '4', event: 'SagaCompleted' });
    expect(await stream.next()).toEqual({ event: 'end', data: '{}' });
    expect(await stream.next()).toBeUndefined();
    await expect.poll(waiters, { timeout: 5_000 }).toBe('0');
  });

  it('goes on from Last-Event-ID; 204 when nothing will follow', async () => {
    const { log, become, follow } = await listen();
    log(SAGA, ...beginning(SAGA), pulse(1), completed);
    become({ sagaId: SAGA, status: 'completed', endedAt: 1 });
    const resumed = await follow('?after=1', { 'last-event-id': '3' });
    expect((await resumed.take(9)).map(({ event }) => event)).toEqual([
      undefined,
      'SagaCompleted',
      'end',
    ]);
    const after = await follow('?after=4');
    expect((await after.take(9)).map(({ event }) => event)).toEqual([undefined, 'end']);
    const over = await follow('', { 'last-event-id': '4' });
    expect(over.response.statusCode).toBe(204);
    over.response.resume();
    const wrong = await follow('', { 'last-event-id': 'x' });
    expect(wrong.response.statusCode).toBe(400);
    wrong.response.resume();
  });

  it('goes on at once behind a page that is short since its events are large', async () => {
    const { log, become, follow } = await listen();
    log(SAGA, ...Array.from({ length: 12 }, (_, n) => large(n)), completed);
    become({ sagaId: SAGA, status: 'completed', endedAt: 1 });
    const frames = await (await follow()).take(20);
    const events = Array.from({ length: 12 }, () => 'TimerCleared');
    const expected = [undefined, ...events, 'SagaCompleted', 'end'];
    expect(frames.map(({ event }) => event)).toEqual(expected);
  });

  it('sends heartbeats while nothing happens', async () => {
    const { log, follow } = await listen({ options: { heartbeatMs: 20 } });
    log(SAGA, ...beginning(SAGA));
    const stream = await follow('?after=2');
    expect(await stream.take(3)).toEqual([
      { retry: '1000' },
      { comment: 'heartbeat' },
      { comment: 'heartbeat' },
    ]);
    stream.response.destroy();
  });

  it('waits for a client that does not read, then gives it all, in order', async () => {
    const total = 3_000;
    let pages = 0;
    const api = await listen({
      reader: {
        history: async (sagaId, after, limit) => {
          pages += 1;
          return api.memory.reader.history(sagaId, after, limit);
        },
      },
    });
    const big = 'x'.repeat(8_000);
    const many = Array.from({ length: total }, (_, n): SagaEvent => ({
      type: 'TimerCleared',
      timerId: `${n}${big}`,
    }));
    api.log(SAGA, ...many);
    const stream = await api.follow();
    // The response's stream stands still until its frames are asked for; the socket's buffers fill up meanwhile.
    await stream.next();
    let before = -1;
    await expect
      .poll(
        () => {
          const same = pages === before;
          before = pages;
          return same;
        },
        { interval: 50 },
      )
      .toBe(true);
    // All of it is 48, of half a megabyte each.
    expect(pages).toBeLessThan(30);
    const frames = await stream.take(total);
    expect(frames.map(({ id }) => id)).toEqual(many.map((_, n) => String(n + 1)));
    stream.response.destroy();
  });

  it('cleans up when the client goes', async () => {
    const { log, follow, waiters } = await listen();
    log(SAGA, ...beginning(SAGA));
    const streams = await Promise.all(Array.from({ length: 5 }, () => follow()));
    await Promise.all(streams.map((stream) => stream.take(3)));
    expect(await waiters()).toBe('5');
    for (const stream of streams) stream.response.destroy();
    await expect.poll(waiters, { timeout: 5_000 }).toBe('0');
  });

  it('is not begun for a client that went while its saga was looked for', async () => {
    const arrived = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const api = await listen({
      reader: {
        get: async (namespace, sagaId) => {
          arrived.resolve();
          await gate.promise;
          return api.memory.reader.get(namespace, sagaId);
        },
      },
    });
    api.log(SAGA, ...beginning(SAGA));
    const connected = once(api.app.server, 'connection');
    const client = connect(api.port, '127.0.0.1');
    client.write(`GET /v1/sagas/${SAGA}/history/stream HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    const [socket] = (await connected) as [Socket];
    await arrived.promise;
    const closed = once(socket, 'close');
    client.destroy();
    await closed;
    gate.resolve();
    await settle();
    expect(await api.waiters()).toBe('0');
  });

  it('ends when the API closes, so that draining does not hang', async () => {
    const { app, log, follow } = await listen();
    log(SAGA, ...beginning(SAGA));
    const stream = await follow('?after=2');
    await stream.next();
    const closed = app.close();
    expect(await stream.next()).toBeUndefined();
    await closed;
  });

  it('is refused as a problem when too many wait', async () => {
    const { log, follow } = await listen({ options: { maxWaiters: 0 } });
    log(SAGA, ...beginning(SAGA));
    const stream = await follow();
    expect(stream.response.statusCode).toBe(503);
    expect(stream.response.headers['content-type']).toContain('application/problem+json');
    stream.response.resume();
  });
});

describe('long poll over a connection', () => {
  it('answers when the saga ends, and frees the waiter of a client that goes', async () => {
    const { become, port, waiters } = await listen();
    become({ sagaId: SAGA });
    const url = `http://127.0.0.1:${port}/v1/sagas/${SAGA}/result?wait=60`;
    const abandoned = httpGet(url, { agent: false });
    abandoned.on('error', () => undefined);
    const answered = fetch(url);
    await expect.poll(waiters, { timeout: 5_000 }).toBe('2');
    abandoned.destroy();
    await expect.poll(waiters, { timeout: 5_000 }).toBe('1');
    become({ sagaId: SAGA, status: 'completed', output: 1, streamVersion: 2 });
    const response = await answered;
    expect([response.status, await response.json()]).toMatchObject([200, { output: 1 }]);
  });
});
