/** A TCP proxy in front of Postgres that can be told when to break: what a network does to a connection. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface Proxy {
  /** The URL of the database, through the proxy. */
  url: string;
  /** Resolves when the client has sent bytes that hold `words`, which are passed on; its answer never comes back. */
  cutAfter(words: string): Promise<void>;
  /** Bytes that hold `words` are not passed on: the connection breaks before the server sees them. */
  cutBefore(words: string): void;
  /** Passes everything on again. */
  mend(): void;
  close(): Promise<void>;
}

export async function startProxy(target: string): Promise<Proxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let rule: { words: string; pass: boolean; done: () => void } | null = null;
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    const destroy = (): void => {
      client.destroy();
      upstream.destroy();
    };
    let deaf = false;
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
    }
    client.on('data', (chunk: Buffer) => {
      const current = rule;
      if (current === null || !chunk.includes(current.words)) return void upstream.write(chunk);
      if (!current.pass) return destroy();
      deaf = true;
      upstream.write(chunk);
      current.done();
    });
    upstream.on('data', (chunk: Buffer) => {
      // The server has answered, so it has committed; the client never hears of it.
      if (deaf) destroy();
      else client.write(chunk);
    });
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(target);
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.toString(),
    cutAfter: (words) => new Promise((done) => (rule = { words, pass: true, done })),
    cutBefore: (words) => (rule = { words, pass: false, done: () => undefined }),
    mend: () => (rule = null),
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
