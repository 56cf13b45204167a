/**
 * Brings the database's schema up to this engine's, from the numbered files in `schema/`.
 *
 * Guards that any number of processes may start at once, that a file is never changed after it was
 * applied, and that an engine does not run on a schema that a newer one changed under its feet.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import { SagaxError } from '../core/errors.ts';
import { ensurePartitions } from './partitions.ts';
import { createPool, mapError, retryConflicts } from './pool.ts';

const SCHEMA_FOLDER = fileURLToPath(new URL('./schema/', import.meta.url));
/** Key of the advisory lock under which a file is applied: "sagax" in ASCII. */
const LOCK_KEY = 0x73_61_67_61_78;
/** Waiting for another process that migrates; a migration of a large database takes minutes. */
const LOCK_LIMIT_MS = 300_000;

export interface Migration {
  number: number;
  /** `0001_event_log` */
  name: string;
  sql: string;
  /** SHA-256 of the text, hex. */
  checksum: string;
  /** Whether an engine that doesn't know it must not run on the database. */
  breaking: boolean;
}

/** The migrations of a folder, by number. @throws SagaxError CONFIG_INVALID for a file that breaks the form. */
export async function readMigrations(folder: string = SCHEMA_FOLDER): Promise<Migration[]> {
  const migrations: Migration[] = [];
  for (const file of (await readdir(folder)).sort()) {
    const match = /^((\d{4})_[a-z0-9_]+)\.sql$/.exec(file);
    if (match === null) throw invalid(`${file} is not named NNNN_name.sql.`);
    const sql = (await readFile(join(folder, file), 'utf8')).replaceAll('\r\n', '\n');
    const header = /^-- breaking: (true|false)$/m.exec(sql);
    if (header === null)
      throw invalid(`${file} has no line "-- breaking: true" or "-- breaking: false".`);
    migrations.push({
      number: Number(match[2]),
      name: match[1] ?? '',
      sql,
      checksum: createHash('sha256').update(sql).digest('hex'),
      breaking: header[1] === 'true',
    });
  }
  const twice = migrations.find((each, index) => migrations[index + 1]?.number === each.number);
  if (twice !== undefined) throw invalid(`Two migrations have the number ${twice.number}.`);
  return migrations;
}

export interface MigrateOptions {
  url: string;
  /** Default: those of this engine. */
  migrations?: readonly Migration[];
}

/**
 * Applies what is missing, one transaction a file, and makes the partitions of now and of the next weeks.
 * If the process dies, the files before are applied and the rest is not; run it again.
 * @returns names of the files that this call applied
 * @throws SagaxError SCHEMA_NEWER, CONFIG_INVALID, DATABASE_UNAVAILABLE
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const migrations = options.migrations ?? (await readMigrations());
  const pool = createPool({
    url: options.url,
    applicationName: 'sagax-migrate',
    max: 1,
    statementTimeoutMs: LOCK_LIMIT_MS * 2,
    lockTimeoutMs: LOCK_LIMIT_MS,
  });
  try {
    const applied: string[] = [];
    // Each round applies one file; the last finds nothing left.
    for (let rounds = 0; rounds <= migrations.length; rounds++) {
      const name = await retryConflicts(() => applyNext(pool, migrations));
      if (name === null) break;
      applied.push(name);
    }
    if (migrations.some(({ name }) => name === '0001_event_log')) await ensurePartitions(pool);
    return applied;
  } catch (error) {
    throw mapError(error, 'repeatable');
  } finally {
    await pool.end();
  }
}

async function applyNext(pool: pg.Pool, migrations: readonly Migration[]): Promise<string | null> {
  const client = await pool.connect();
  // One that can't be rolled back is still in its transaction: the next try must not get it.
  let broken = false;
  try {
    await client.query('BEGIN');
    // Bound to the transaction, so it also holds behind a pooler that hands out connections per transaction.
    await client.query('SELECT pg_advisory_xact_lock($1)', [LOCK_KEY]);
    await client.query(
      `CREATE SCHEMA IF NOT EXISTS sagax;
       CREATE TABLE IF NOT EXISTS sagax.migrations (
         number int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, breaking boolean NOT NULL,
         applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`,
    );
    const next = pending(migrations, await appliedRows(client))[0];
    if (next !== undefined) {
      await client.query(next.sql);
      await client.query(
        'INSERT INTO sagax.migrations (number, name, checksum, breaking) VALUES ($1, $2, $3, $4)',
        [next.number, next.name, next.checksum, next.breaking],
      );
    }
    await client.query('COMMIT');
    return next?.name ?? null;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => (broken = true));
    throw error;
  } finally {
    client.release(broken);
  }
}

interface AppliedRow {
  number: number;
  name: string;
  checksum: string;
  breaking: boolean;
}

async function appliedRows(client: pg.ClientBase | pg.Pool): Promise<AppliedRow[]> {
  const { rows } = await client.query<AppliedRow>(
    'SELECT number, name, checksum, breaking FROM sagax.migrations ORDER BY number',
  );
  return rows;
}

/** What is left to apply, after all that was applied has been checked. */
function pending(migrations: readonly Migration[], applied: readonly AppliedRow[]): Migration[] {
  const known = new Map(migrations.map((each) => [each.number, each]));
  const highest = migrations.at(-1)?.number ?? 0;
  for (const row of applied) {
    const mine = known.get(row.number);
    if (mine === undefined) {
      if (!row.breaking && row.number > highest) continue;
      throw new SagaxError(
        'SCHEMA_NEWER',
        `The database has the migration ${row.name}, which this engine (up to ${String(highest).padStart(4, '0')}) does ` +
          'not know and must not run with. Deploy the engine that applied it, or a newer one.',
      );
    }
    if (mine.name !== row.name || mine.checksum !== row.checksum) {
      throw invalid(
        `The migration ${row.name} was changed after it was applied. Restore the file, and put the change in a new one.`,
      );
    }
  }
  const done = new Set(applied.map(({ number }) => number));
  return migrations.filter(({ number }) => !done.has(number));
}

/**
 * Checks without changing anything that the schema is this engine's, or a newer one it can live with.
 * @throws SagaxError SCHEMA_NEWER; CONFIG_INVALID when migrations are missing
 */
export async function checkSchema(pool: pg.Pool): Promise<void> {
  try {
    const { rows } = await pool.query<{ there: boolean }>(
      `SELECT to_regclass('sagax.migrations') IS NOT NULL AS there`,
    );
    const left = pending(
      await readMigrations(),
      rows[0]?.there === true ? await appliedRows(pool) : [],
    );
    if (left.length === 0) return;
    throw invalid(
      `The database lacks the migrations ${left.map(({ name }) => name).join(', ')}. Migrate it first.`,
    );
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
}

function invalid(message: string): SagaxError {
  return new SagaxError('CONFIG_INVALID', message);
}
