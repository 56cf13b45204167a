/**
 * A service on its own Postgres schema, as a process that runs services takes it: name, tables, handlers.
 *
 * Guards that any number of processes may set its tables up at once: they take turns, each in one transaction, so a
 * crash leaves what was there before.
 */
import type pg from 'pg';
import { SagaxError } from '../../engine/core/errors.ts';
import { handlersByName, type Handler } from '../handlers.ts';
import { ensureSchema, inTurn } from './migrate.ts';
import { tableNames } from './names.ts';
import type { PgTx } from './transaction.ts';

export interface ServiceOptions {
  /** The part of its commands' names before the dot. */
  service: string;
  /** Schema of its inbox, made when it is missing; a good place for its tables too. Default: its name, with "_" for "-". */
  schema?: string;
  /** Makes its tables; called at each start, in one transaction, so its statements must be repeatable (`IF NOT EXISTS`). */
  migrate?: (tx: PgTx) => Promise<unknown>;
  /** One for each of its commands. */
  handlers: readonly Handler<PgTx>[];
}

export interface Service {
  readonly kind: 'sagax.service';
  readonly service: string;
  readonly schema: string;
  readonly handlers: readonly Handler<PgTx>[];
  /** Sets its schema and tables up. May be called at any time, by many at once. */
  migrate(pool: pg.Pool): Promise<void>;
}

/** @throws SagaxError CONFIG_INVALID when its schema can't be one, or a handler is not of this service, or a command has two */
export function defineService(options: ServiceOptions): Service {
  const { service, schema = service.replaceAll('-', '_'), handlers, migrate } = options;
  if (handlers.length === 0) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `The service "${service}" has no handlers. Give it one for each of its commands.`,
    );
  }
  handlersByName(service, handlers);
  tableNames(schema, 'sagax_inbox');
  return {
    kind: 'sagax.service',
    service,
    schema,
    handlers,
    migrate: async (pool) => {
      if (migrate !== undefined) await setUp(pool, schema, migrate);
    },
  };
}

async function setUp(
  pool: pg.Pool,
  schema: string,
  work: (tx: PgTx) => Promise<unknown>,
): Promise<void> {
  const client = await pool.connect();
  // After a failure it may be in a transaction still.
  let broken = true;
  try {
    await inTurn(client, `sagax service ${schema}`, async () => {
      await ensureSchema(client, schema);
      await work(client);
    });
    broken = false;
  } finally {
    client.release(broken);
  }
}
