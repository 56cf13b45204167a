/**
 * Clients that hold connections and say little: /healthz answers all the same, and they are cut off in time.
 *
 * Each idle or dripping client is a real socket. They and the probe share the API's process, which makes its answers
 * slower than they would be, never quicker.
 */
import { once } from 'node:events';
import { connect, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { openSecureApi, type SecureApi } from './access-support.ts';

const IDLE_SOCKETS = 2_000;
const DRIPPING_SOCKETS = 200;
const PROBES = 50;
const HEALTH_LIMIT_MS = 100;
/** Pause between two bytes of a client that drips; below any timeout on silence. */
const DRIP_EVERY_MS = 250;

const sockets: Socket[] = [];
let api: SecureApi | null = null;
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await api?.app.close();
  api = null;
});

async function listen(options: object = {}): Promise<number> {
  api = await openSecureApi({ options });
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  return (api.app.server.address() as AddressInfo).port;
}

/** Below the kernel's queue of connections that were not accepted yet, which drops what is beyond. */
const OPENED_AT_ONCE = 100;

/** On return the server has accepted them all. */
async function open(port: number, count: number): Promise<Socket[]> {
  const opened: Socket[] = [];
  while (opened.length < count) {
    const few = Math.min(OPENED_AT_ONCE, count - opened.length);
    const accepted = acceptedBy(api?.app.server, few);
    opened.push(...Array.from({ length: few }, () => dial(port)));
    await accepted;
  }
  return opened;
}

function dial(port: number): Socket {
  const socket = connect(port, '127.0.0.1').on('error', () => undefined);
  sockets.push(socket);
  return socket;
}

function acceptedBy(server: Server | undefined, count: number): Promise<void> {
  return new Promise((resolve) => {
    let accepted = 0;
    const onConnection = (): void => {
      accepted += 1;
      if (accepted < count) return;
      server?.off('connection', onConnection);
      resolve();
    };
    server?.on('connection', onConnection);
  });
}

/** Times of single probes, each on a connection of its own, slowest last. */
async function probe(port: number): Promise<number[]> {
  const times: number[] = [];
  for (let n = 0; n < PROBES; n++) {
    const startedAt = performance.now();
    const answer = await fetch(`http://127.0.0.1:${port}/healthz`, {
      headers: { connection: 'close' },
    });
    expect(answer.status).toBe(200);
    await answer.text();
    times.push(performance.now() - startedAt);
  }
  return times.sort((a, b) => a - b);
}
/** The middle one: single ones also measure what else the machine is doing. */
const typical = (times: readonly number[]): number =>
  times[Math.floor(times.length / 2)] ?? Infinity;

describe('a flood of connections', { timeout: 60_000 }, () => {
  it(`of ${IDLE_SOCKETS} that are idle leaves /healthz under ${HEALTH_LIMIT_MS} ms`, async () => {
    const port = await listen();
    await open(port, IDLE_SOCKETS);
    const connections = await new Promise<number>((resolve, reject) => {
      api?.app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
    });
    expect(connections).toBe(IDLE_SOCKETS);
    expect(typical(await probe(port))).toBeLessThan(HEALTH_LIMIT_MS);
  });

  it(`of ${DRIPPING_SOCKETS} that drip their headers, or their bodies, leaves it so too`, async () => {
    const port = await listen();
    const dripping = await open(port, DRIPPING_SOCKETS);
    const beginnings = [
      'GET /v1/sagas HTTP/1.1\r\nhost: x\r\nx-a: ',
      'POST /v1/sagas HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{',
    ];
    dripping.forEach((socket, n) => socket.write(beginnings[n % 2] ?? ''));
    const timer = setInterval(() => {
      for (const socket of dripping) if (socket.writable) socket.write('a');
    }, DRIP_EVERY_MS);
    try {
      expect(typical(await probe(port))).toBeLessThan(HEALTH_LIMIT_MS);
    } finally {
      clearInterval(timer);
    }
  });

  it('of clients that say nothing, or never come to an end, is cut off in time', async () => {
    const port = await listen();
    const [silent, dripping] = await open(port, 2);
    if (silent === undefined || dripping === undefined) throw new Error('no sockets');
    let answer = '';
    dripping.setEncoding('utf8').on('data', (text: string) => (answer += text));
    dripping.write('GET /v1/sagas HTTP/1.1\r\nhost: x\r\nx-a: ');
    const timer = setInterval(() => dripping.writable && dripping.write('a'), DRIP_EVERY_MS);
    const startedAt = performance.now();
    await Promise.all([once(silent.resume(), 'close'), once(dripping, 'close')]);
    clearInterval(timer);
    // Ten seconds for headers, looked at every five.
    expect(performance.now() - startedAt).toBeLessThan(20_000);
    expect(answer).toMatch(/^HTTP\/1\.1 408 /);
  });

  it('beyond the most connections is closed at once, and those there were go on', async () => {
    const port = await listen({ maxConnections: 20 });
    const first = await open(port, 20);
    const more = Array.from({ length: 5 }, () => dial(port));
    await Promise.all(more.map((socket) => once(socket.resume(), 'close')));
    const [kept] = first;
    kept?.write('GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n');
    const [data] = (await once(kept as Socket, 'data')) as [Buffer];
    expect(data.toString()).toMatch(/^HTTP\/1\.1 200 /);
  });
});
