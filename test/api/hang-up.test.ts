/** Callers that hang up before they are answered: what is kept of every request is kept of theirs, once. */
import { once } from 'node:events';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { settle } from '../../engine/memory/index.ts';
import { openSecureApi, SAGA, type SecureApi } from './access-support.ts';
import type { Overrides } from './support.ts';

const opened: SecureApi[] = [];
afterEach(async () => {
  for (const api of opened.splice(0)) await api.app.close();
});

async function listen(overrides: Overrides = {}) {
  const lines: string[] = [];
  const logger = pino({ level: 'info' }, { write: (line) => lines.push(line) });
  const api = await openSecureApi({ options: { logger }, ...overrides });
  opened.push(api);
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = api.app.server.address() as AddressInfo;
  const key = await api.key('admin');
  const head = (line: string): string =>
    `${line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\n`;
  return {
    ...api,
    head,
    /** A connection that has sent `sent`, and how to hang up: on return the server knows. */
    dial: async (sent: string) => {
      const connected = once(api.app.server, 'connection');
      const client = connect(port, '127.0.0.1');
      client.write(sent);
      const [socket] = (await connected) as [Socket];
      const hangUp = async (): Promise<void> => {
        // The server may see a reset, which is an error to `once`.
        const closed = new Promise((resolve) => socket.once('close', resolve));
        client.destroy();
        await closed;
        await settle();
      };
      return { client, hangUp };
    },
    /** Acts in the log. */
    told: () =>
      lines
        .map((line) => JSON.parse(line) as { audit?: object })
        .flatMap(({ audit }) => (audit === undefined ? [] : [audit])),
    /** Requests of a route that have been measured, by status. */
    measured: async (route: string) => {
      const { body } = await api.app.inject({
        url: '/metrics',
        headers: { authorization: `Bearer ${key}` },
      });
      const lines = body.split('\n').filter((line) => line.includes(`route="${route}"`));
      return lines.flatMap((line) => {
        const match = /_count\{.*status="(\d+)"\} (\d+)/.exec(line);
        return match === null ? [] : [`${match[1]}: ${match[2]}`];
      });
    },
  };
}

/** A bus, say, that answers only when it may. */
function gated() {
  const arrived = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const pass = async (): Promise<void> => {
    arrived.resolve();
    await gate.promise;
  };
  return { arrived: arrived.promise, open: () => gate.resolve(), pass };
}

const PAUSE = '/v1/sagas/:sagaId/pause';
const pause = `POST /v1/sagas/${SAGA}/pause`;

describe('an act whose caller hangs up', () => {
  it('while it is done is entered with what it came to', async () => {
    const bus = gated();
    const api = await listen({ bus: { publish: bus.pass } });
    const { hangUp } = await api.dial(`${api.head(pause)}\r\n`);
    await bus.arrived;
    await hangUp();
    expect(api.access.entries).toMatchObject([{ action: 'pauseSaga', status: null }]);
    bus.open();
    await settle();
    expect(api.access.entries).toMatchObject([{ status: 202, code: null }]);
    expect(api.told()).toEqual([api.access.entries[0]]);
    expect(await api.measured(PAUSE)).toEqual(['202: 1']);
  });

  it('and then fails is entered with its failure', async () => {
    const bus = gated();
    const publish = async () => {
      await bus.pass();
      throw new Error('a defect');
    };
    const api = await listen({ bus: { publish } });
    const { hangUp } = await api.dial(`${api.head(pause)}\r\n`);
    await bus.arrived;
    await hangUp();
    bus.open();
    await settle();
    expect(api.access.entries).toMatchObject([{ status: 500, code: 'INTERNAL' }]);
    expect(api.told()).toHaveLength(1);
  });

  it('while its answer waits for another one on the connection is entered too', async () => {
    const api = await listen();
    const wait = api.head(`GET /v1/sagas/${SAGA}/result?wait=60`);
    const { hangUp } = await api.dial(`${wait}\r\n${api.head(pause)}\r\n`);
    await expect.poll(() => api.inbox(), { timeout: 5_000 }).toHaveLength(1);
    await settle();
    expect(api.access.entries).toMatchObject([{ status: null }]);
    await hangUp();
    expect(api.access.entries).toMatchObject([{ status: 202, code: null }]);
    expect(api.told()).toHaveLength(1);
    expect(await api.measured(PAUSE)).toEqual(['202: 1']);
  });

  it('before its body had come was none, and is told in the log', async () => {
    const api = await listen();
    const arrived = once(api.app.server, 'request');
    const { hangUp } = await api.dial(
      `${api.head(pause)}content-type: application/json\r\ncontent-length: 100\r\n\r\n{`,
    );
    await arrived;
    await hangUp();
    expect(api.access.entries).toEqual([]);
    expect(api.told()).toMatchObject([{ action: 'pauseSaga', code: expect.any(String) }]);
  });
});

describe('a request whose caller hangs up is measured', () => {
  it('when it followed an event stream', async () => {
    const api = await listen();
    const { client, hangUp } = await api.dial(
      `${api.head(`GET /v1/sagas/${SAGA}/history/stream`)}\r\n`,
    );
    await once(client, 'data');
    await hangUp();
    expect(await api.measured('/v1/sagas/:sagaId/history/stream')).toEqual(['200: 1']);
  });

  it('when it did not read its answer', async () => {
    const api = await listen();
    api.become({ sagaId: SAGA, status: 'completed', output: 'x'.repeat(20_000_000) });
    const { client, hangUp } = await api.dial(`${api.head(`GET /v1/sagas/${SAGA}/result`)}\r\n`);
    await once(client, 'readable');
    await hangUp();
    expect(await api.measured('/v1/sagas/:sagaId/result')).toEqual(['200: 1']);
  });
});
