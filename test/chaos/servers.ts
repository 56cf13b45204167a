/**
 * The servers of a stage: a Postgres that can be ended at once and comes back on its port, and a Kafka.
 *
 * Guards that a crash is one (no shutdown, no checkpoint), that clients find the server again at the same
 * address, and that the folder goes with the run.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../engine/postgres/index.ts';

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  return port;
}

/** One server on a folder and a port of its own. */
export class PostgresBox {
  readonly folder: string;
  readonly #port: number;
  readonly #settings: { readonly [name: string]: string };
  readonly #env: { readonly [name: string]: string };
  #server: EmbeddedPostgres | null = null;

  private constructor(
    folder: string,
    port: number,
    settings: { [name: string]: string },
    env: { [name: string]: string },
  ) {
    this.folder = folder;
    this.#port = port;
    this.#settings = settings;
    this.#env = env;
  }

  /**
   * Starts a new server. Data is flushed as in production, unless `settings` say otherwise.
   * @param env what the server finds in its environment, for a library that is loaded before it
   */
  static async start(
    settings: { [name: string]: string } = {},
    env: { [name: string]: string } = {},
  ): Promise<PostgresBox> {
    const folder = await mkdtemp(join(tmpdir(), 'sagax-chaos-pg-'));
    const all = { max_connections: '400', shared_buffers: '256MB', ...settings };
    const box = new PostgresBox(folder, await freePort(), all, env);
    await box.restart();
    return box;
  }

  get url(): string {
    return this.#running().url;
  }

  get pid(): number {
    return this.#running().pid;
  }

  /** SIGQUIT is an immediate stop, SIGKILL a crash; both leave recovery to the next start. */
  async crash(signal: 'SIGQUIT' | 'SIGKILL' = 'SIGQUIT'): Promise<void> {
    const server = this.#running();
    process.kill(server.pid, signal);
    // Waits until it is gone, and gives the folder back.
    await server.stop();
  }

  /** Comes back on the same port and data; recovers first. */
  async restart(): Promise<void> {
    // The server inherits our environment; whatever else is started meanwhile would, too.
    Object.assign(process.env, this.#env);
    try {
      this.#server = await startEmbeddedPostgres({
        folder: this.folder,
        port: this.#port,
        settings: this.#settings,
      });
    } finally {
      for (const name of Object.keys(this.#env)) delete process.env[name];
    }
  }

  async stop(): Promise<void> {
    await this.#server?.stop();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }

  #running(): EmbeddedPostgres {
    if (this.#server === null) throw new Error('The server has not been started.');
    return this.#server;
  }
}
