/**
 * Everything that a process needs of Postgres, opened at once: `openPostgres({ url })`.
 *
 * Guards that nothing runs on a database of another shape: the schema and the shard count are checked
 * before anything is handed out.
 */
import type pg from 'pg';
import { SagaxError } from '../core/errors.ts';
import type { Clock, EventLog, NodeIdLeases, ShardLeases } from '../ports.ts';
import type { ApiKeys, AuditLog } from '../ports-access.ts';
import type { DeadLetters, SagaReader, StartKeys } from '../ports-read.ts';
import { postgresApiKeys, postgresAuditLog } from './access.ts';
import { BusBeside } from './bus-beside.ts';
import { BusTopics } from './bus-topics.ts';
import { openClock, type DatabaseClock } from './clock.ts';
import { postgresDeadLetters } from './dead-letters.ts';
import { postgresEventLog } from './event-log.ts';
import { postgresReader } from './inspect.ts';
import { ensureMembership, WHOLE_LOG, type JoinOptions, type Place } from './membership.ts';
import { checkSchema, migrate } from './migrate.ts';
import { postgresNodeIds } from './node-ids.ts';
import { ensurePartitions, type PartitionReport } from './partitions.ts';
import { createPool, Database, type PoolOptions } from './pool.ts';
import { dropOldPartitions, type RetentionOptions, type RetentionReport } from './retention.ts';
import { ensureShards, postgresShardLeases } from './shard-leases.ts';
import { postgresStartKeys } from './start-keys.ts';

export interface PostgresOptions extends PoolOptions {
  /** Number of shards; must be what the database was set up with. Default: that, or 16 for a new one. */
  shards?: number;
  /** Bring the schema up to date first. Default true; with false a missing migration is an error. */
  migrate?: boolean;
  /** Whether the bus is in this database too: then what a batch has to say goes out with its commit. Default false. */
  bus?: boolean;
  /** Where the database stands in a log that is spread over several. Default: it is the whole log. */
  place?: Place & JoinOptions;
}

export interface MaintenanceOptions extends RetentionOptions {
  /** Drops weeks of ended sagas that are older than this. Default: nothing is dropped. */
  retentionMs?: number;
}

export type MaintenanceReport = PartitionReport & RetentionReport;

export interface PostgresPorts {
  /** For the Postgres bus, and for looks into the tables. Closed by `close`. */
  pool: pg.Pool;
  db: Database;
  clock: DatabaseClock;
  /** The clock of the database that the shard lives in: the one its timers and leases go by. */
  clockOf(shard: number): Clock;
  /** The log's own id. */
  logId: string;
  eventLog: EventLog;
  shardLeases: ShardLeases;
  nodeIds: NodeIdLeases;
  reader: SagaReader;
  startKeys: StartKeys;
  deadLetters: DeadLetters;
  apiKeys: ApiKeys;
  auditLog: AuditLog;
  /** Makes partitions ahead and drops old ones. Call it every hour or so, from any number of nodes. */
  maintain(options?: MaintenanceOptions): Promise<MaintenanceReport>;
  /** Ends the clock and all connections; statements under way are waited for. */
  close(): Promise<void>;
}

/**
 * @throws SagaxError DATABASE_UNAVAILABLE, SCHEMA_NEWER, TOPOLOGY_MISMATCH, CONFIG_INVALID
 */
export async function openPostgres(options: PostgresOptions): Promise<PostgresPorts> {
  if (options.migrate !== false) await migrate({ url: options.url });
  const pool = createPool(options);
  const db = new Database(pool);
  try {
    if (options.migrate === false) await checkSchema(pool);
    await checkDurable(db);
    const place = options.place ?? { ...WHOLE_LOG, logId: null, mayBeNew: true };
    const { logId } = await ensureMembership(db, { index: place.index, count: place.count }, place);
    const shardCount = await ensureShards(db, options.shards, place);
    const clock = await openClock(db);
    return {
      pool,
      db,
      clock,
      clockOf: () => clock,
      logId,
      eventLog: postgresEventLog(
        db,
        options.bus === true ? new BusBeside(new BusTopics(db), options.url) : undefined,
      ),
      shardLeases: postgresShardLeases(db, shardCount),
      nodeIds: postgresNodeIds(db),
      reader: postgresReader(db),
      startKeys: postgresStartKeys(db),
      deadLetters: postgresDeadLetters(db),
      apiKeys: postgresApiKeys(db),
      auditLog: postgresAuditLog(db),
      maintain: async ({ retentionMs, ...options } = {}) => {
        const made = await ensurePartitions(pool);
        if (retentionMs === undefined) return { ...made, dropped: [], refused: [] };
        const before_ms = clock.now() - retentionMs;
        const done = await dropOldPartitions(pool, before_ms, options);
        return { ...made, ...done, skipped: [...made.skipped, ...done.skipped] };
      },
      close: async () => {
        clock.close();
        await pool.end();
      },
    };
  } catch (error) {
    await pool.end();
    throw error;
  }
}

/** "On return it is durable" is what every port promises; a server set to lose the last commits can't keep it. */
async function checkDurable(db: Database): Promise<void> {
  const [row] = await db.read<{ commit: string }>({
    text: `SELECT current_setting('synchronous_commit') AS commit`,
  });
  if (row?.commit !== 'off') return;
  throw new SagaxError(
    'CONFIG_INVALID',
    'The database has synchronous_commit = off, which loses acknowledged commits in a crash. Set it to on for ' +
      'this role or database (ALTER DATABASE … SET synchronous_commit = on).',
  );
}

export { startEmbeddedPostgres, type EmbeddedOptions, type EmbeddedPostgres } from './embedded.ts';
export { checkSchema, migrate } from './migrate.ts';
export { createPool, Database, mapError, retryConflicts, type PoolOptions } from './pool.ts';
export { listOldPartitions } from './retention.ts';
export type { DatabaseClock } from './clock.ts';
