/**
 * One Postgres per test run: `SAGAX_TEST_POSTGRES_URL` if set, else an embedded one in a temporary folder.
 *
 * Guards that a test file gets its database by cloning a migrated template, not by migrating again.
 * The template's name carries this process's id, so runs that share a server don't meet.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { startEmbeddedPostgres } from '../../engine/postgres/embedded.ts';
import { migrate } from '../../engine/postgres/migrate.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** URL of the maintenance database on the server under test. */
    postgresUrl: string;
    /** Name of the migrated database to clone. */
    postgresTemplate: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env['SAGAX_TEST_POSTGRES_URL'];
  const server =
    given === undefined ? await startThrowaway() : { url: given, stop: async () => undefined };
  const template = `sagax_template_${process.pid}_${project.name.replaceAll(/\W/g, '_')}`;
  try {
    await onServer(server.url, async (client) => {
      await client.query(`DROP DATABASE IF EXISTS ${template}`);
      await client.query(`CREATE DATABASE ${template}`);
    });
    await migrate({ url: databaseUrl(server.url, template) });
  } catch (error) {
    await server.stop();
    throw error;
  }
  project.provide('postgresUrl', server.url);
  project.provide('postgresTemplate', template);
  return async () => {
    if (given !== undefined) {
      await onServer(server.url, (client) =>
        client.query(`DROP DATABASE IF EXISTS ${template} WITH (FORCE)`),
      );
    }
    await server.stop();
  };
}

async function startThrowaway(): Promise<{ url: string; stop: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'sagax-test-postgres-'));
  // The data dies with the run, so it need not survive a power cut.
  const server = await startEmbeddedPostgres({
    folder,
    fsync: false,
    settings: { max_connections: '400' },
  }).catch(async (error: unknown) => {
    await rm(folder, { recursive: true, force: true });
    throw error;
  });
  return {
    url: server.url,
    stop: async () => {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function databaseUrl(serverUrl: string, database: string): string {
  const url = new URL(serverUrl);
  url.pathname = `/${database}`;
  return url.toString();
}

async function onServer(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
