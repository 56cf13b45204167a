/** Names of the store's tables, checked and quoted: they go into SQL as text. */
import { createHash } from 'node:crypto';
import { SagaxError } from '../../engine/core/errors.ts';

export interface TableNames {
  /** Schema of all of them, as it is, unquoted. */
  schema: string;
  /** Quoted, with the schema. */
  inbox: string;
  letters: string;
  tokens: string;
  migrations: string;
  /** Ends the names of prepared statements: stores on other tables may share a connection. */
  key: string;
}

/** @throws SagaxError CONFIG_INVALID */
export function tableNames(schema: string, table: string): TableNames {
  assertIdentifier(schema, 'schema');
  assertIdentifier(table, 'table');
  const name = (suffix: string): string => `"${schema}"."${table}${suffix}"`;
  return {
    schema,
    inbox: name(''),
    letters: name('_dead_letters'),
    tokens: name('_tokens'),
    migrations: name('_migrations'),
    key: createHash('sha256').update(name('')).digest('hex').slice(0, 16),
  };
}

function assertIdentifier(name: string, what: string): void {
  if (/^[a-z_][a-z0-9_]{0,47}$/.test(name)) return;
  throw new SagaxError(
    'CONFIG_INVALID',
    `The ${what} "${name}" of postgresStore must be lower-case letters, digits and "_", at most 48, no digit first.`,
  );
}
