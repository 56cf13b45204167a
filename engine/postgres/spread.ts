/**
 * The event log over several databases, opened at once: `openSpread({ urls })` gives what `openPostgres` gives.
 *
 * Guards that all databases are parts of one log, each in its place, before anything of them is used, and that the
 * absence of one stops neither the start nor the shards of the others. Shard `s` lives in database `s mod count`.
 * What is global lives in the first: start keys, node ids, API keys, the audit trail, and the Postgres bus.
 *
 * Time: what is due is due by the clock of the shard's own database, and so are its leases; no comparison is ever
 * made between two databases' clocks but in lists by start time. A difference that would show there is refused.
 */
import { SagaxError } from '../core/errors.ts';
import { openPostgres, type PostgresOptions, type PostgresPorts } from './index.ts';
import { LogPart } from './log-part.ts';
import { isComplete, markComplete, MAX_LOG_DATABASES, type JoinOptions } from './membership.ts';
import type { Skipped } from './partitions.ts';
import { dropStartKeys, oldWeeks } from './retention.ts';
import { Parts, spreadEventLog, spreadShardLeases } from './spread-log.ts';
import { spreadDeadLetters, spreadReader } from './spread-read.ts';

/** Far above what NTP leaves, far below what lists by start time allow between an id's time and its shard's (60 s). */
const MAX_SKEW_MS = 10_000;

export interface SpreadOptions extends Omit<PostgresOptions, 'url' | 'place'> {
  /** Two to MAX_LOG_DATABASES, always in the same order. */
  urls: readonly string[];
  /** Told of databases that went away and came back (`error` is null then); for a log line. */
  onTrouble?: (what: string, error: unknown) => void;
}

/** What a process needs of the log, in one database or in several. */
export type LogPorts = Omit<PostgresPorts, 'pool' | 'db'>;

/**
 * On return at least one database is open; those that are away are opened when they come.
 * @throws SagaxError TOPOLOGY_MISMATCH, CONFIG_INVALID, SCHEMA_NEWER; DATABASE_UNAVAILABLE when none answers
 */
export async function openSpread(options: SpreadOptions): Promise<LogPorts> {
  const spread = new Spread(options);
  try {
    await spread.start();
    return spread.ports();
  } catch (error) {
    await spread.close();
    throw error;
  }
}

class Spread {
  readonly #options: SpreadOptions;
  readonly #onTrouble: (what: string, error: unknown) => void;
  readonly #parts: readonly LogPart[];
  /** Known once a database was opened. */
  #logId: string | null = null;
  #shardCount: number | undefined;
  /** Whether the first database says that all were set up; null while it was not asked. */
  #isComplete: boolean | null = null;

  constructor(options: SpreadOptions) {
    const count = options.urls.length;
    if (count < 2 || count > MAX_LOG_DATABASES || new Set(options.urls).size < count) {
      throw new SagaxError(
        'CONFIG_INVALID',
        `A log is spread over 2 to ${MAX_LOG_DATABASES} different databases; ${count} were given.`,
      );
    }
    this.#options = options;
    this.#onTrouble = options.onTrouble ?? (() => undefined);
    this.#shardCount = options.shards;
    this.#parts = options.urls.map((url, index) => {
      const place = { index, count };
      const open = (): Promise<PostgresPorts> => this.#open(url, index);
      return new LogPart({ place, url, open, onTrouble: this.#onTrouble });
    });
  }

  async start(): Promise<void> {
    const [first, ...others] = this.#parts;
    // The first by itself: a new log begins there, and the others join it.
    await first?.start();
    const started = await Promise.allSettled(others.map((part) => part.start()));
    for (const result of started) if (result.status === 'rejected') throw result.reason;
    if (!this.#parts.some(({ isOpen }) => isOpen)) first?.ports();
    await this.#noteComplete();
  }

  async close(): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.close()));
  }

  async #open(url: string, index: number): Promise<PostgresPorts> {
    const { urls, onTrouble: _, shards: _wanted, bus = false, ...options } = this.#options;
    const ports = await openPostgres({
      ...options,
      url,
      bus: bus && index === 0,
      ...(this.#shardCount === undefined ? {} : { shards: this.#shardCount }),
      place: { index, count: urls.length, ...this.#joining(index) },
    });
    try {
      this.#checkSkew(ports);
      this.#logId ??= ports.logId;
      this.#shardCount ??= ports.shardLeases.shardCount;
      if (this.#logId !== ports.logId || this.#shardCount !== ports.shardLeases.shardCount) {
        throw new SagaxError(
          'TOPOLOGY_MISMATCH',
          `It belongs to the log ${ports.logId} with ${ports.shardLeases.shardCount} shards, the others to ${this.#logId} ` +
            `with ${this.#shardCount}. Give the databases of one log.`,
        );
      }
      if (index === 0) this.#isComplete = await isComplete(ports.db);
      return ports;
    } catch (error) {
      await ports.close();
      throw error;
    }
  }

  #joining(index: number): JoinOptions {
    const mayBeNew = index === 0 ? this.#logId === null : this.#isComplete === false;
    return { logId: this.#logId, mayBeNew };
  }

  #checkSkew(ports: PostgresPorts): void {
    const other = this.#parts.find(({ isOpen }) => isOpen)?.ports();
    if (other === undefined) return;
    const skew_ms = ports.clock.now() - other.clock.now();
    const error_ms = ports.clock.errorMs() + other.clock.errorMs();
    if (Math.abs(skew_ms) <= MAX_SKEW_MS + error_ms) return;
    throw new SagaxError(
      'CONFIG_INVALID',
      `Its clock is ${Math.round(skew_ms)} ms off the other databases' of the log; at most ${MAX_SKEW_MS} ms are allowed. ` +
        'Keep the servers on NTP.',
    );
  }

  async #noteComplete(): Promise<void> {
    if (this.#isComplete !== false || this.#parts.some(({ isOpen }) => !isOpen)) return;
    await this.#parts[0]?.ask(({ db }) => markComplete(db));
    this.#isComplete = true;
  }

  ports(): LogPorts {
    const parts = new Parts(this.#parts, this.#shardCount ?? 0);
    const [first] = this.#parts;
    const open = this.#parts.find(({ isOpen }) => isOpen);
    if (first === undefined || open === undefined || this.#logId === null) {
      throw new SagaxError('INTERNAL', 'A log without an open database was handed out.');
    }
    return {
      // A process's own time; that of a shard is `clockOf`.
      clock: open.ports().clock,
      clockOf: (shard) => parts.ofShard(shard).ports().clock,
      logId: this.#logId,
      eventLog: spreadEventLog(parts),
      shardLeases: spreadShardLeases(parts, this.#onTrouble),
      ...globalPorts(first),
      reader: spreadReader(parts),
      deadLetters: spreadDeadLetters(parts),
      maintain: (wanted) => this.#maintain(wanted?.retentionMs, wanted?.signal),
      close: () => this.close(),
    };
  }

  /** Every database by itself; start keys go when no database has anything of their week any more. */
  async #maintain(retentionMs?: number, signal?: AbortSignal): ReturnType<LogPorts['maintain']> {
    await this.#noteComplete();
    const options = retentionMs === undefined ? {} : { retentionMs, keepStartKeys: true, signal };
    const done = await Promise.allSettled(
      this.#parts.map((part) => part.ask((ports) => ports.maintain(options))),
    );
    const failed = done.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    const keysLeft =
      retentionMs === undefined ? [] : await this.#dropStartKeys(retentionMs, signal);
    const reports = done.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    return {
      created: reports.flatMap(({ created }) => created),
      skipped: [...reports.flatMap(({ skipped }) => skipped), ...keysLeft],
      dropped: [...new Set(reports.flatMap(({ dropped }) => dropped))].sort((a, b) => a - b),
      refused: reports.flatMap(({ refused }) => refused),
    };
  }

  async #dropStartKeys(retentionMs: number, signal?: AbortSignal): Promise<Skipped[]> {
    const [first] = this.#parts;
    const left = await first?.ask(async ({ pool, clock }) => {
      const before_ms = clock.now() - retentionMs;
      const kept = await Promise.all(
        this.#parts.map((part) => part.ask((ports) => oldWeeks(ports.pool, before_ms))),
      );
      return dropStartKeys(pool, before_ms, kept.flat(), signal);
    });
    return left ?? [];
  }
}

/** What there is one of for the whole log, in its first database. */
function globalPorts(
  first: LogPart,
): Pick<LogPorts, 'nodeIds' | 'startKeys' | 'apiKeys' | 'auditLog'> {
  return {
    nodeIds: {
      acquire: (...args) => first.ask(({ nodeIds }) => nodeIds.acquire(...args)),
      renew: (...args) => first.ask(({ nodeIds }) => nodeIds.renew(...args)),
      release: (...args) => first.ask(({ nodeIds }) => nodeIds.release(...args)),
    },
    startKeys: { reserve: (...args) => first.ask(({ startKeys }) => startKeys.reserve(...args)) },
    apiKeys: {
      create: (...args) => first.ask(({ apiKeys }) => apiKeys.create(...args)),
      find: (...args) => first.ask(({ apiKeys }) => apiKeys.find(...args)),
      list: () => first.ask(({ apiKeys }) => apiKeys.list()),
      revoke: (...args) => first.ask(({ apiKeys }) => apiKeys.revoke(...args)),
      touch: (...args) => first.ask(({ apiKeys }) => apiKeys.touch(...args)),
    },
    auditLog: {
      begin: (...args) => first.ask(({ auditLog }) => auditLog.begin(...args)),
      finish: (...args) => first.ask(({ auditLog }) => auditLog.finish(...args)),
    },
  };
}
