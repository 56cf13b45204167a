/**
 * Postgres and Kafka for one round: fresh data, real fsync, a folder that goes with them.
 *
 * Guards that no round finds what another one left, and that all systems get servers with the same settings.
 */
import { rmSync } from 'node:fs';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../engine/postgres/index.ts';
import { KafkaServer } from '../test/support/kafka-server.ts';

export interface PostgresServer {
  url: string;
  pid: number;
  /** For looks into the tables. */
  pool: pg.Pool;
  stop(): Promise<void>;
}

/** @param statements count statements by pg_stat_statements (a few per cent slower) */
export async function startPostgres(statements: boolean): Promise<PostgresServer> {
  const folder = await mkdtemp(join(tmpdir(), 'sagax-bench-pg-'));
  const server = await startEmbeddedPostgres({
    folder,
    fsync: true,
    settings: {
      shared_buffers: '512MB',
      max_wal_size: '4GB',
      ...(statements
        ? {
            shared_preload_libraries: 'pg_stat_statements',
            'pg_stat_statements.track_planning': 'on',
          }
        : {}),
    },
  });
  const pool = new pg.Pool({ connectionString: server.url, max: 2, application_name: 'bench' });
  pool.on('error', () => undefined);
  if (statements) await pool.query('CREATE EXTENSION pg_stat_statements');
  return {
    url: server.url,
    pid: server.pid,
    pool,
    stop: async () => {
      await pool.end();
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export interface KafkaBroker {
  brokers: string[];
  pid: number;
  /** Bytes of all partitions' logs. */
  logBytes(): Promise<number>;
  stop(): Promise<void>;
}

/** @param fsync flush each request to disk before it is acknowledged; else as Kafka is by default */
export async function startKafka(fsync: boolean): Promise<KafkaBroker> {
  const folder = await mkdtemp(join(tmpdir(), 'sagax-bench-kafka-'));
  const server = new KafkaServer({
    properties: {
      'log.dirs': folder,
      ...(fsync ? { 'log.flush.interval.messages': '1' } : {}),
    },
  });
  process.once('exit', () => {
    server.stopOnExit();
    rmSync(folder, { recursive: true, force: true });
  });
  const brokers = await server.start();
  return {
    brokers,
    pid: server.pid ?? -1,
    logBytes: () => bytesUnder(folder, '.log'),
    stop: async () => {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Bytes of the files under a folder whose names end so. */
export async function bytesUnder(folder: string, ending = ''): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  let bytes = 0;
  for (const entry of entries) {
    if (!entry.isFile() || !entry.name.endsWith(ending)) continue;
    // A file may go while we look (compaction).
    const found = await stat(join(entry.parentPath, entry.name)).catch(() => null);
    bytes += found?.size ?? 0;
  }
  return bytes;
}
