/**
 * Brings the store's tables up to this version, from the numbered files in `schema/`.
 *
 * Guards that any number of workers may start at once, and that a worker does not run on tables that a
 * newer version changed under its feet. All in one transaction: a crash leaves what was there before.
 */
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import { SagaxError } from '../../engine/core/errors.ts';
import type { TableNames } from './names.ts';

const SCHEMA_FOLDER = fileURLToPath(new URL('./schema/', import.meta.url));

export async function migrate(client: pg.ClientBase, names: TableNames): Promise<void> {
  const files = await readFiles();
  await inTurn(client, names.migrations, async () => {
    await ensureSchema(client, names.schema);
    await client.query(
      `CREATE TABLE IF NOT EXISTS ${names.migrations} (
         number integer PRIMARY KEY,
         -- Whether a worker that doesn't know it must not run.
         breaking boolean NOT NULL,
         applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`,
    );
    const applied = await appliedNumbers(client, names, files);
    for (const { number, sql, breaking } of files) {
      if (applied.has(number)) continue;
      await client.query(fill(sql, names));
      await client.query(`INSERT INTO ${names.migrations} (number, breaking) VALUES ($1, $2)`, [
        number,
        breaking,
      ]);
    }
  });
}

/** One transaction, of all that name the same lock one after the other: who waited finds everything done. */
export async function inTurn(
  client: pg.ClientBase,
  lock: string,
  work: () => Promise<void>,
): Promise<void> {
  await client.query('BEGIN');
  try {
    await client.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 0))', [lock]);
    await work();
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

/** `CREATE SCHEMA IF NOT EXISTS` asks for a right on the database even when the schema is there. */
export async function ensureSchema(client: pg.ClientBase, schema: string): Promise<void> {
  const found = await client.query('SELECT 1 FROM pg_namespace WHERE nspname = $1', [schema]);
  if (found.rowCount === 0) await client.query(`CREATE SCHEMA IF NOT EXISTS "${schema}"`);
}

async function appliedNumbers(
  client: pg.ClientBase,
  names: TableNames,
  files: readonly SchemaFile[],
): Promise<Set<number>> {
  const { rows } = await client.query<{ number: number; breaking: boolean }>(
    `SELECT number, breaking FROM ${names.migrations}`,
  );
  const known = new Set(files.map((file) => file.number));
  const newer = rows.find((row) => row.breaking && !known.has(row.number));
  if (newer !== undefined) {
    throw new SagaxError(
      'SCHEMA_NEWER',
      `${names.inbox} has migration ${newer.number}, which this worker doesn't know and can't run with. ` +
        `Deploy a worker of the newer version.`,
    );
  }
  return new Set(rows.map((row) => row.number));
}

interface SchemaFile {
  number: number;
  sql: string;
  breaking: boolean;
}

async function readFiles(): Promise<SchemaFile[]> {
  const names = (await readdir(SCHEMA_FOLDER)).filter((name) => name.endsWith('.sql')).sort();
  return Promise.all(
    names.map(async (name) => {
      const sql = await readFile(`${SCHEMA_FOLDER}/${name}`, 'utf8');
      return { number: Number(name.slice(0, 4)), sql, breaking: /^-- breaking: true$/m.test(sql) };
    }),
  );
}

function fill(sql: string, names: TableNames): string {
  return sql.replaceAll(/\{\{(inbox|letters|tokens)\}\}/g, (_, key: 'inbox') => names[key]);
}
