/**
 * The end of a process over real connections: what can be answered is, and nobody holds it up.
 *
 * The clock stands still unless a test moves it, so what ends without that has not waited for the deadline.
 */
import { once } from 'node:events';
import { Agent, get, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, it } from 'vitest';
import { ManualClock } from '../../engine/memory/index.ts';
import { openApi, type Overrides } from './support.ts';

const DRAIN_MS = 7_000;
const SAGA = '1';

const clients: { destroy(): unknown }[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client.destroy();
});

async function listen(overrides: Overrides = {}) {
  const clock = new ManualClock();
  const api = await openApi({ clock, options: { drainMs: DRAIN_MS }, ...overrides });
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = api.app.server.address() as AddressInfo;
  /** A connection that has sent `sent` and reads nothing by itself; with what the server answers it by. */
  const dial = async (sent: string): Promise<{ socket: Socket; response: ServerResponse }> => {
    const arrived = once(api.app.server, 'request');
    const socket = connect(port, '127.0.0.1').on('error', () => undefined);
    clients.push(socket);
    socket.write(sent);
    const [, response] = (await arrived) as [IncomingMessage, ServerResponse];
    return { socket, response };
  };
  return { ...api, clock, port, dial };
}

const asking = (path: string): string => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`;

describe('closing the API', () => {
  it('answers what is under way, and ends its connection with that, also where it would be kept', async () => {
    const arrived = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const { app, clock, port } = await listen({
      reader: {
        list: async () => {
          arrived.resolve();
          await gate.promise;
          return [];
        },
      },
    });
    const agent = new Agent({ keepAlive: true });
    clients.push(agent);
    const answered = once(get({ port, path: '/v1/sagas', agent }), 'response');
    await arrived.promise;
    const closed = app.close();
    // For the deadline: it has begun.
    await clock.sleeping();
    gate.resolve();
    const [response] = (await answered) as [IncomingMessage];
    expect([response.statusCode, response.headers.connection]).toEqual([200, 'close']);
    expect(JSON.parse(await text(response))).toMatchObject({ items: [] });
    await closed;
  });

  it('ends an answer that had begun when it is out, and its connection with it', async () => {
    const { app, become, dial } = await listen();
    become({ sagaId: SAGA });
    const { socket, response } = await dial(asking(`/v1/sagas/${SAGA}/history/stream`));
    await once(socket, 'data');
    const closed = app.close();
    await Promise.all([once(socket, 'close'), closed]);
    expect(response.writableFinished).toBe(true);
  });

  it('does not wait for connections that nothing is asked on', async () => {
    const { app, port } = await listen();
    const connected = once(app.server, 'connection');
    const socket = connect(port, '127.0.0.1');
    clients.push(socket);
    await connected;
    await Promise.all([app.close(), once(socket.resume(), 'close')]);
    expect(app.server.listening).toBe(false);
  });

  it('does not wait for who reads nothing of its event stream', async () => {
    const { app, log, dial } = await listen();
    const big = 'x'.repeat(100_000);
    for (let n = 0; n < 200; n++) log(SAGA, { type: 'TimerCleared', timerId: `${n}${big}` });
    const { response } = await dial(asking(`/v1/sagas/${SAGA}/history/stream`));
    await expect.poll(() => response.writableNeedDrain, { timeout: 5_000 }).toBe(true);
    await app.close();
  });

  it('cuts no answer off that is written, and is still being read', async () => {
    const output = 'x'.repeat(20_000_000);
    const { app, become, dial } = await listen();
    become({ sagaId: SAGA, status: 'completed', endedAt: 1, output });
    const { socket, response } = await dial(asking(`/v1/sagas/${SAGA}/result`));
    await expect.poll(() => response.writableEnded, { timeout: 5_000 }).toBe(true);
    expect(response.writableFinished).toBe(false);
    const closed = app.close();
    const answer = await text(socket);
    expect(answer.length).toBeGreaterThan(output.length);
    expect(answer.endsWith('}')).toBe(true);
    await closed;
  });

  it('cuts off what has not come to an end by the deadline, and not before', async () => {
    const { app, clock, dial } = await listen();
    const dripping = await dial(
      'POST /v1/sagas HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{',
    );
    let isClosed = false;
    const cut = once(dripping.socket.resume(), 'close').then(() => (isClosed = true));
    const closed = app.close();
    await clock.sleeping();
    await clock.advance(DRAIN_MS - 1);
    dripping.socket.write('"');
    await once(dripping.response.req, 'data');
    expect(isClosed).toBe(false);
    await clock.advance(1);
    await Promise.all([closed, cut]);
  });
});
