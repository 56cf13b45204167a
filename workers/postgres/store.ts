/**
 * The participant store on the service's own Postgres: the one place in `workers/` that uses `pg`.
 *
 * Guards I8 by unique inserts and fencing tokens; leases go by the database's clock only. A worker that
 * dies loses its connections, and Postgres rolls its transactions back.
 */
import pg from 'pg';
import { SagaxError } from '../../engine/core/errors.ts';
import type { Bus, CommitShare, DeadLetter } from '../../engine/ports.ts';
import {
  HandlerAbandoned,
  type Answer,
  type Barrier,
  type BarrierEntry,
  type Batch,
  type Claim,
  type ParticipantStore,
} from '../ports.ts';
import { inOnePacket, PostgresBatch } from './batch.ts';
import { migrate } from './migrate.ts';
import { tableNames, type TableNames } from './names.ts';
import {
  answerJson,
  commit,
  ENTRY_COLUMNS,
  entryValues,
  PostgresBarrier,
  ROW_COLUMNS,
  rowOf,
  type PgTx,
  type RawRow,
} from './transaction.ts';

export interface PostgresStoreOptions {
  /**
   * The service's own pool. Give it at least as many connections as the worker's concurrency; with `pipeline: true`
   * transactions take fewer round trips (handlers can't use cursors then).
   */
  pool: pg.Pool;
  /** Schema of the inbox table. Default `public`. */
  schema?: string;
  /** Default `sagax_inbox`. */
  table?: string;
  /** Of the handlers' transactions. Default `read committed`; conflicts of the others are tried again. */
  isolation?: 'read committed' | 'repeatable read' | 'serializable';
  /**
   * Longest that a transaction may stand idle or wait for a lock, in ms, where the pool, the role or the database sets no
   * `idle_in_transaction_session_timeout` or `lock_timeout`: what the rows of a worker that is gone cost the others.
   * Above the worker's `transactionTimeoutMs`. Default 90 000.
   */
  idleLimitMs?: number;
}

/** Serialization failure, deadlock: nothing was done, the same transaction may work at once. */
const CONFLICTS: ReadonlySet<string> = new Set(['40001', '40P01']);
/** The connection or the server went away: it may have been committed. The barrier makes another try safe. */
const LOST = /^(?:08...|57P0[123]|ECONNRESET|ECONNREFUSED|EPIPE|ETIMEDOUT)$/;
const LOST_TEXT = /^Connection terminated|^Client has encountered a connection error/;

export class PostgresStore implements ParticipantStore<PgTx> {
  readonly #pool: pg.Pool;
  readonly #names: TableNames;
  readonly #isReadCommitted: boolean;
  readonly #idleLimitMs: number;
  readonly #unusable = new WeakSet<pg.PoolClient>();
  readonly #bareBegin: string;
  #share: CommitShare | null = null;
  #begin: string;

  constructor(options: PostgresStoreOptions) {
    this.#pool = options.pool;
    this.#names = tableNames(options.schema ?? 'public', options.table ?? 'sagax_inbox');
    const { isolation = 'read committed', idleLimitMs = 90_000 } = options;
    assertLimit(idleLimitMs);
    this.#idleLimitMs = idleLimitMs;
    this.#isReadCommitted = isolation === 'read committed';
    this.#bareBegin = `BEGIN ISOLATION LEVEL ${isolation.toUpperCase()}`;
    this.#begin = this.#bareBegin;
  }

  async start(): Promise<void> {
    // An idle connection that breaks must not end the process; the next use gets a new one.
    if (this.#pool.listenerCount('error') === 0) this.#pool.on('error', () => undefined);
    await this.#withClient(async (client) => {
      await migrate(client, this.#names);
      await this.#limitTransactions(client);
    });
  }

  /**
   * A transaction whose worker went away without a word would keep its rows for hours, until the server finds out. Said
   * with each BEGIN, since the connections are not ours alone; only where the server has no limits, since it costs.
   */
  async #limitTransactions(client: pg.PoolClient): Promise<void> {
    const { rows } = await client.query<{ name: string }>(
      `SELECT name FROM pg_settings
        WHERE name IN ('idle_in_transaction_session_timeout', 'lock_timeout') AND setting = '0' ORDER BY name`,
    );
    const limits = rows.map(({ name }) => `SET LOCAL ${name} = ${this.#idleLimitMs}`);
    this.#begin = [this.#bareBegin, ...limits].join('; ');
  }

  /** Not under other isolations than READ COMMITTED: two transactions that reply to one partition would conflict. */
  async shareCommits(bus: Bus): Promise<void> {
    const { host, port, database = '' } = new pg.Client(this.#pool.options);
    const share = this.#isReadCommitted ? (bus.within?.({ host, port, database }) ?? null) : null;
    if (share === null) return;
    // A service's own user need not have rights on the bus's tables.
    const answer = await this.#pool.query<{ allowed: boolean }>(share.allowed).catch(() => null);
    if (answer?.rows[0]?.allowed === true) this.#share = share;
  }

  transaction<T>(work: (barrier: Barrier<PgTx>) => Promise<T>): Promise<T> {
    return this.#inTransaction(async (client, begun) => {
      const barrier = new PostgresBarrier(client, this.#names, begun);
      let result: T;
      try {
        result = await work(barrier);
      } finally {
        // Before the COMMIT is sent: what came behind it would be on its own, outside of any transaction.
        barrier.close();
      }
      await begun;
      await commit(client);
      return result;
    });
  }

  batch<T>(work: (batch: Batch<PgTx>) => Promise<T>): Promise<T> {
    return this.#inTransaction(async (client, begun) => {
      const batch = new PostgresBatch(client, this.#names, begun, this.#share);
      const result = await work(batch).catch((error: unknown) => {
        if (isForbidden(error)) this.#share = null;
        throw error;
      });
      if (!batch.committed) throw new SagaxError('INTERNAL', 'The batch was not finished.');
      return result;
    });
  }

  /** `work` commits; it is rolled back when it throws. */
  #inTransaction<T>(
    work: (client: pg.PoolClient, begun: Promise<unknown>) => Promise<T>,
  ): Promise<T> {
    return this.#withClient(async (client) => {
      try {
        // Not awaited: on a pool with `pipeline: true` the first statement goes out together with it.
        return await inOnePacket(client, () => {
          const begun = client.query(this.#begin);
          begun.catch(() => undefined);
          return work(client, begun);
        });
      } catch (error) {
        if (!(error instanceof HandlerAbandoned)) await this.#rollback(client);
        throw error;
      }
    });
  }

  async claim(entry: BarrierEntry, leaseMs: number): Promise<Claim> {
    const { inbox, key, tokens } = this.#names;
    // The token of a take-over is drawn in SET, where the row is locked: tokens of one row only grow.
    const { rows } = await this.#pool.query<{ fencing_token: string }>({
      name: `sagax-claim-${key}`,
      text: `INSERT INTO ${inbox} AS mine (${ENTRY_COLUMNS}, state, fencing_token, lease_expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'running', nextval('${tokens}'),
                clock_timestamp() + $9 * interval '1 millisecond')
        ON CONFLICT (command_id) DO UPDATE
           SET fencing_token = nextval('${tokens}'),
               lease_expires_at = clock_timestamp() + $9 * interval '1 millisecond',
               attempt = greatest(mine.attempt, excluded.attempt), updated_at = clock_timestamp()
         WHERE mine.state = 'running'
           AND (mine.lease_expires_at IS NULL OR mine.lease_expires_at <= clock_timestamp())
        RETURNING fencing_token`,
      values: [...entryValues(entry), leaseMs],
    });
    if (rows[0] !== undefined) return { claimed: true, fencingToken: rows[0].fencing_token };
    const found = await this.#pool.query<RawRow>(
      `SELECT ${ROW_COLUMNS} FROM ${inbox} WHERE command_id = $1`,
      [entry.commandId],
    );
    if (found.rows[0] !== undefined) return { claimed: false, row: rowOf(found.rows[0]) };
    throw new SagaxError('INTERNAL', `Barrier row ${entry.commandId} was pruned while in use.`);
  }

  extend(commandId: string, fencingToken: string, leaseMs: number): Promise<boolean> {
    return this.#ifOurs(
      `UPDATE ${this.#names.inbox} SET lease_expires_at = clock_timestamp() + $3 * interval '1 millisecond'
        WHERE command_id = $1 AND fencing_token = $2 AND state = 'running'`,
      [commandId, fencingToken, leaseMs],
    );
  }

  record(
    commandId: string,
    fencingToken: string,
    outcome: Answer | { state: 'pending' },
  ): Promise<boolean> {
    // The same state again is a repeat of a record whose answer was lost.
    return this.#ifOurs(
      `UPDATE ${this.#names.inbox}
          SET state = $3, answer = $4, lease_expires_at = NULL, updated_at = clock_timestamp()
        WHERE command_id = $1 AND fencing_token = $2 AND state IN ('running', $3)`,
      [commandId, fencingToken, outcome.state, answerJson(outcome)],
    );
  }

  endLease(commandId: string, fencingToken: string): Promise<boolean> {
    return this.#ifOurs(
      `UPDATE ${this.#names.inbox} SET lease_expires_at = clock_timestamp(), updated_at = clock_timestamp()
        WHERE command_id = $1 AND fencing_token = $2 AND state = 'running'`,
      [commandId, fencingToken],
    );
  }

  async park(letter: DeadLetter): Promise<void> {
    await this.#pool.query(
      `INSERT INTO ${this.#names.letters}
         (topic, partition, message_offset, key, headers, value, code, reason, parked_at)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, to_timestamp($9::float8 / 1000))
       ON CONFLICT DO NOTHING`,
      [
        letter.topic,
        letter.partition,
        String(letter.offset),
        keepable(letter.key),
        JSON.stringify(keepableHeaders(letter.headers)),
        keepable(letter.value),
        letter.code,
        keepable(letter.reason),
        letter.at,
      ],
    );
  }

  isTransient(error: unknown): boolean {
    // Handlers may wrap what the driver threw.
    let cause = error;
    for (let depth = 0; depth < 8 && typeof cause === 'object' && cause !== null; depth += 1) {
      const { code, message } = cause as { code?: unknown; message?: unknown };
      if (typeof code === 'string' && (CONFLICTS.has(code) || LOST.test(code))) return true;
      if (typeof message === 'string' && LOST_TEXT.test(message)) return true;
      cause = (cause as { cause?: unknown }).cause;
    }
    return false;
  }

  /**
   * Deletes answered rows older than `olderThanMs`, at most `limit`, the work of a nightly job. Keep them longer
   * than the longest saga and the longest redelivery: see the head of `schema/0001_inbox.sql`.
   * @returns how many were deleted; call again while it is `limit`
   */
  async prune(options: { olderThanMs: number; limit: number }): Promise<number> {
    const { inbox } = this.#names;
    const { rowCount } = await this.#pool.query(
      `DELETE FROM ${inbox} WHERE command_id IN (
         SELECT command_id FROM ${inbox}
          WHERE created_at < clock_timestamp() - $1 * interval '1 millisecond'
            AND state IN ('done', 'rejected', 'superseded') LIMIT $2)`,
      [options.olderThanMs, options.limit],
    );
    return rowCount ?? 0;
  }

  async #ifOurs(text: string, values: unknown[]): Promise<boolean> {
    const { rowCount } = await this.#pool.query(text, values);
    return rowCount === 1;
  }

  /** A connection that ended badly, or that an abandoned handler may still be using, is not given back. */
  async #withClient<T>(run: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    // The pool listens only while a connection is idle; unheard, a broken one would end the process.
    let broken: Error | undefined;
    const onError = (error: Error): void => {
      broken = error;
    };
    client.on('error', onError);
    const release = (error?: Error): void => {
      client.release(error);
      if (error === undefined) client.removeListener('error', onError);
    };
    try {
      const result = await run(client);
      release(broken);
      return result;
    } catch (error) {
      if (error instanceof HandlerAbandoned) this.#terminate(client);
      const unusable = error instanceof HandlerAbandoned || this.#unusable.has(client);
      release(broken ?? (unusable ? (error as Error) : undefined));
      throw error;
    }
  }

  /** A connection whose transaction can't be rolled back is closed, which rolls it back. */
  async #rollback(client: pg.PoolClient): Promise<void> {
    await client.query('ROLLBACK').catch(() => this.#unusable.add(client));
  }

  /** Its statement may hang on a lock, and closing our end would not end it; the server is told to. */
  #terminate(client: pg.PoolClient): void {
    const { processID } = client as unknown as { processID: number | null };
    if (processID === null) return;
    this.#pool.query('SELECT pg_terminate_backend($1)', [processID]).catch(() => undefined);
  }
}

/** A right was taken away since the start; what a handler itself may not do never comes this far. */
function isForbidden(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === '42501';
}

/** It goes into SQL as text. @throws SagaxError CONFIG_INVALID */
function assertLimit(idleLimitMs: number): void {
  if (Number.isSafeInteger(idleLimitMs) && idleLimitMs >= 1) return;
  throw new SagaxError(
    'CONFIG_INVALID',
    `idleLimitMs is ${idleLimitMs}; it must be a whole number of ms ≥ 1.`,
  );
}

function keepable(text: string | null): string | null {
  return text === null ? null : text.toWellFormed().replaceAll('\0', '\uFFFD');
}

function keepableHeaders(headers: { [name: string]: string }): { [name: string]: string | null } {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [keepable(name) ?? '', keepable(value)]),
  );
}

export function postgresStore(options: PostgresStoreOptions): PostgresStore {
  return new PostgresStore(options);
}
