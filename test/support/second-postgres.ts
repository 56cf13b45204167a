/**
 * A second Postgres server beside the run's own, for a log over two of them: tests may stop it and start it again.
 *
 * Guards that it goes with its folder, and that it comes back on the same port with the same data.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../../engine/postgres/embedded.ts';

export interface SecondPostgres {
  /** A new, empty database on it. @returns its URL */
  database(name: string): Promise<string>;
  /** Connections break, new ones are refused; on return the server has ended. */
  stop(): Promise<void>;
  start(): Promise<void>;
  /** Stops it and deletes its folder. */
  drop(): Promise<void>;
}

export async function secondPostgres(): Promise<SecondPostgres> {
  const folder = await mkdtemp(join(tmpdir(), 'sagax-test-second-'));
  const options = { folder, fsync: false, settings: { max_connections: '100' } };
  let server = await startEmbeddedPostgres(options);
  const { port, url } = server;
  return {
    database: async (name) => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      await client.query(`CREATE DATABASE ${name}`);
      await client.end();
      return Object.assign(new URL(url), { pathname: `/${name}` }).toString();
    },
    stop: () => server.stop(),
    start: async () => {
      server = await startEmbeddedPostgres({ ...options, port });
    },
    drop: async () => {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
