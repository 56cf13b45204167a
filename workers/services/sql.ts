/**
 * SQL as the example services see it: a connection inside the transaction that the worker opened.
 *
 * Guards that no service holds a database driver: the worker's store gives the connection, a `pg`
 * client fits by its shape. A crash before the worker commits leaves nothing of it.
 */
import { readFileSync } from 'node:fs';

export interface Sql {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }>;
}

/** All rows; `Row` is what the statement's columns are (int8 comes as a string). */
export async function many<Row>(sql: Sql, text: string, values: unknown[] = []): Promise<Row[]> {
  const { rows } = await sql.query(text, values);
  return rows as Row[];
}

/** The first row, or undefined. */
export async function first<Row>(
  sql: Sql,
  text: string,
  values: unknown[] = [],
): Promise<Row | undefined> {
  return (await many<Row>(sql, text, values))[0];
}

/**
 * Runs a file of statements in one transaction, one process at a time: the first statement takes a
 * lock that lasts until the end, so services that start side by side don't collide on their tables.
 * Statements must be repeatable (`IF NOT EXISTS`, `ON CONFLICT DO NOTHING`).
 */
export async function migrateFrom(sql: Sql, file: URL): Promise<void> {
  const statements = readFileSync(file, 'utf8');
  // Several statements in one query without values are one implicit transaction.
  await sql.query(`SELECT pg_advisory_xact_lock(7267203, 1);\n${statements}`);
}
