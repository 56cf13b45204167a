/**
 * The one place that makes connections to Postgres, and the one that says what their failures mean.
 *
 * Guards that no statement hangs without a limit, that an idle connection's death does not end the
 * process, and that "nothing was written" is told apart from "nobody knows" (CommitUnknownError).
 */
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { CommitUnknownError, SagaxError } from '../core/errors.ts';

export interface PoolOptions {
  /** `postgres://user:password@host:port/database`, with `?sslmode=…` as pg takes it. */
  url: string;
  /** Shown in `pg_stat_activity`. Default `sagax`. */
  applicationName?: string;
  /** Most connections of this process. Default 10. */
  max?: number;
  /** Longest a statement may run on the server. Default 15 s. */
  statementTimeoutMs?: number;
  /** Longest a statement may wait for a lock. Default 5 s, below the shortest lease. */
  lockTimeoutMs?: number;
  /** Longest wait for a connection. Default 5 s. */
  connectTimeoutMs?: number;
  /**
   * Statements of one connection go out without waiting for the answers to those before them (default no). Cursors
   * and query streams are refused then, and a statement that runs out of time takes its connection with it.
   */
  pipeline?: boolean;
  /** Told of connections that died while idle. They are replaced; this is for a log line. */
  onIdleError?: (error: Error) => void;
}

/**
 * What a failed call was about; decides what a broken connection means. `repeatable`: a read, or a write
 * that does no harm when done twice, so that the caller can simply call again.
 */
export type Intent = 'repeatable' | 'write';

/** How often a statement that lost against another (deadlock, serialization, lock wait) is tried in all. */
const CONFLICT_ATTEMPTS = 4;
/** How much later than the server the client gives up: enough for the server's own timeout to arrive. */
export const CLIENT_GRACE_MS = 5_000;

export function createPool(options: PoolOptions): pg.Pool {
  const statement_timeout_ms = options.statementTimeoutMs ?? 15_000;
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: options.applicationName ?? 'sagax',
    max: options.max ?? 10,
    connectionTimeoutMillis: options.connectTimeoutMs ?? 5_000,
    idleTimeoutMillis: 60_000,
    statement_timeout: statement_timeout_ms,
    // A black-holed connection never answers at all; the client must not wait for the kernel to notice.
    query_timeout: statement_timeout_ms + CLIENT_GRACE_MS,
    lock_timeout: options.lockTimeoutMs ?? 5_000,
    idle_in_transaction_session_timeout: 10_000,
    pipeline: options.pipeline ?? false,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    // The fence re-checks rows after a lock wait as READ COMMITTED does (I2), whatever the server's default.
    options: '-c default_transaction_isolation=read\\ committed',
  });
  pool.on('error', (error) => options.onIdleError?.(error));
  // pg tells a dead connection to the query and, once more, by an event. It may come in one packet with the end of
  // the hand-shake or of a query, when neither the pool nor a caller listens: unheard, it would end the process.
  pool.on('connect', (client) => client.on('error', ignore));
  return pool;
}

/** Runs one statement; the adapters' way to the database. `name` makes it a prepared statement. */
export class Database {
  readonly pool: pg.Pool;

  constructor(pool: pg.Pool) {
    this.pool = pool;
  }

  /**
   * A read, or a write that may be done twice (a lease, a reservation).
   * @throws SagaxError DATABASE_UNAVAILABLE call again
   */
  async read<R extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<R[]> {
    return (await this.#run<R>('repeatable', query)).rows;
  }

  /**
   * On return the statement has committed.
   * @param options.attempts how often it is tried while it loses against others; 1 for a caller that knows better
   * @throws SagaxError DATABASE_UNAVAILABLE nothing was written; CommitUnknownError the answer was lost
   */
  async write<R extends pg.QueryResultRow>(
    query: pg.QueryConfig,
    options?: { attempts: number },
  ): Promise<pg.QueryResult<R>> {
    return this.#run<R>('write', query, options?.attempts);
  }

  async #run<R extends pg.QueryResultRow>(
    intent: Intent,
    query: pg.QueryConfig,
    attempts?: number,
  ): Promise<pg.QueryResult<R>> {
    return retryConflicts(async () => {
      // Taken apart from the query: what fails here was certainly never sent.
      const client = await this.pool.connect().catch((error: unknown) => {
        throw mapError(error, 'repeatable');
      });
      let broken = false;
      let silent = false;
      try {
        return await client.query<R>(query);
      } catch (error) {
        broken = isConnectionError(error) || sqlState(error) === ABORTED;
        silent = isSilence(error);
        throw mapError(error, intent);
      } finally {
        client.release(broken);
        if (silent) dropIdle(this.pool).catch(ignore);
      }
    }, attempts);
  }
}

function ignore(): void {}

/** Whether the server never answered, though the connection seems to be there: the line may be dead. */
function isSilence(error: unknown): boolean {
  return error instanceof Error && error.message === 'Query read timeout';
}

/**
 * Closes the connections that are idle now. Where one line has died without a word, those that wait beside it
 * most likely have too, and each would cost its next user the whole time limit again.
 */
async function dropIdle(pool: pg.Pool): Promise<void> {
  // All asked for in one turn, so that nobody gets one of them in between.
  const idle = Array.from({ length: pool.idleCount }, () => pool.connect());
  await Promise.all(idle.map(async (client) => (await client).release(true)));
}

/** Conflicts between transactions: the server has rolled back, and the same statement may succeed now. */
const CONFLICTS: ReadonlySet<string> = new Set(['40001', '40P01', '55P03']);

/**
 * Runs `work` again, at most `attempts` times in all, while it loses against other transactions.
 * For work that is one statement or one whole transaction.
 */
export async function retryConflicts<T>(
  work: () => Promise<T>,
  attempts = CONFLICT_ATTEMPTS,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt >= attempts || !CONFLICTS.has(sqlState(error) ?? '')) throw error;
      await pause(2 ** attempt * 5 * (1 + Math.random()));
    }
  }
}

/** The SQLSTATE of an error of pg, also when it is the cause of one of ours. */
export function sqlState(error: unknown): string | null {
  if (error instanceof SagaxError) return sqlState(error.cause);
  const code = (error as { code?: unknown } | null | undefined)?.code;
  // Every SQLSTATE has a digit; without asking for one, EPIPE and EPERM would pass for one.
  return typeof code === 'string' && /^(?=.*\d)[0-9A-Z]{5}$/.test(code) ? code : null;
}

const SOCKET_ERRORS: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
]);
/** pg has no codes for these. */
const CONNECTION_WORDS =
  /Connection terminated|timeout exceeded when trying to connect|timeout expired|Query read timeout|is not queryable|Cannot use a pool after calling end/i;

/** pg says these before it sends anything. */
const NEVER_SENT = /is not queryable|Cannot use a pool after calling end/;

/** Whether the connection is gone, so that the answer to what was sent will never come. */
export function isConnectionError(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== null) return state.startsWith('08') || state.startsWith('57P');
  const { code, message } = error as { code?: string; message?: string };
  return SOCKET_ERRORS.has(code ?? '') || CONNECTION_WORDS.test(message ?? '');
}

/** The connection stands in a transaction that failed, and refuses all else until someone rolls it back: it is of no use. */
const ABORTED = '25P02';
/** Reasons that pass beside a want of resources and conflicts: taken too long, a standby after a failover, a spoilt connection. */
const PASSING: ReadonlySet<string> = new Set(['57014', '25006', ABORTED]);

/** The server said no and rolled back, but for reasons that pass. */
function isPassing(state: string): boolean {
  return state.startsWith('53') || PASSING.has(state) || CONFLICTS.has(state);
}

/** Wrong password, no such user or no right to log in, no such database: trying again does not help. */
const REFUSED_LOGINS: ReadonlySet<string> = new Set(['28P01', '28000', '3D000']);

/**
 * An error of pg or of its socket as one of ours. What is no failure of the database comes back as it is.
 * @param intent `write` only when the statement was sent: then a broken connection leaves it unknown
 */
export function mapError(error: unknown, intent: Intent): unknown {
  if (error instanceof SagaxError) return error;
  const words = error instanceof Error ? error.message : String(error);
  if (isConnectionError(error)) {
    if (intent === 'write' && !NEVER_SENT.test(words)) {
      return new CommitUnknownError(
        `The connection to Postgres broke while a write was under way (${words}); it may or may not be there. ` +
          'Read it back before deciding.',
        { cause: error },
      );
    }
    return new SagaxError(
      'DATABASE_UNAVAILABLE',
      `Postgres does not answer (${words}). Check that it runs and that DATABASE_URL leads to it.`,
      { cause: error },
    );
  }
  const state = sqlState(error);
  if (state !== null && REFUSED_LOGINS.has(state)) {
    return new SagaxError(
      'CONFIG_INVALID',
      `Postgres lets nobody in by these settings (${words}). Mend user, password and database in DATABASE_URL.`,
      { cause: error },
    );
  }
  if (state !== null && isPassing(state)) {
    return new SagaxError(
      'DATABASE_UNAVAILABLE',
      `Postgres refused for now (${state}: ${words}); nothing was written. Try again; if it stays, look at the server's load and disk.`,
      { cause: error },
    );
  }
  return error;
}
