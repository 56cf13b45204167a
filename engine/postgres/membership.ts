/**
 * What each database knows of the log that it is a part of: which log, how many databases, which place.
 *
 * Guards that a shard is never looked for in another database than the one that has it (I1, I4): shard `s` lives
 * in database `s mod count`, so count and order are recorded when a database is first set up, and a list that
 * differs is refused. A log that was complete once is not filled up with an empty database.
 */
import { randomUUID } from 'node:crypto';
import { SagaxError } from '../core/errors.ts';
import type { Database } from './pool.ts';

/** More than anyone has run; bounds what one list query fans out to, and leaves room in the ids of dead letters. */
export const MAX_LOG_DATABASES = 64;

/** Where a database stands in the log. */
export interface Place {
  /** From 0, in the order of the list. */
  index: number;
  count: number;
}

/** One database is the whole log. */
export const WHOLE_LOG: Place = { index: 0, count: 1 };

export interface Membership extends Place {
  /** The log's own id, the same in all of its databases. */
  logId: string;
}

export interface JoinOptions {
  /** The log that it must belong to; null takes the one that it has. */
  logId: string | null;
  /** Whether a database that belongs to no log may become part of it; with `logId` null it begins a new one. */
  mayBeNew: boolean;
}

/**
 * Records the database's place when it is new, and checks it when it is not. Safe to call from many processes at once.
 * @throws SagaxError TOPOLOGY_MISMATCH; DATABASE_UNAVAILABLE
 */
export async function ensureMembership(
  db: Database,
  place: Place,
  { logId, mayBeNew }: JoinOptions,
): Promise<Membership> {
  const wanted = { logId: logId ?? randomUUID(), ...place };
  if (mayBeNew) await record(db, wanted);
  const found = await read(db);
  if (found === 'outdated') {
    // Set up before places were recorded: it is a whole log by itself.
    if (place.count === 1) {
      await record(db, wanted, true);
      return ensureMembership(db, place, { logId, mayBeNew });
    }
    throw mismatch(place, 'it was set up as the only database of its log');
  }
  if (found === null && logId === null) {
    throw new SagaxError(
      'DATABASE_UNAVAILABLE',
      'It is new, and can be set up only while the first database of its log answers.',
    );
  }
  if (found === null) {
    throw mismatch(
      place,
      'it is empty, though this log was set up over all of its databases before. If it was lost, restore it from its backup',
    );
  }
  if (found.index !== place.index || found.count !== place.count) {
    throw mismatch(
      place,
      `it was set up as number ${found.index + 1} of ${found.count}, and decides by that which shards it has`,
    );
  }
  if (logId !== null && found.logId !== logId) {
    throw mismatch(place, `it belongs to the log ${found.logId}, the others to ${logId}`);
  }
  return found;
}

/** Nothing is recorded once the database has shards, but for one that was set up before places were. */
async function record(db: Database, membership: Membership, isOutdated = false): Promise<void> {
  await db.read({
    text: `INSERT INTO sagax.settings (name, value) SELECT 'log', $1::jsonb
      WHERE $2 OR NOT EXISTS (SELECT FROM sagax.settings WHERE name = 'shards') ON CONFLICT (name) DO NOTHING`,
    values: [JSON.stringify(membership), isOutdated],
  });
}

async function read(db: Database): Promise<Membership | 'outdated' | null> {
  const rows = await db.read<{ name: string; value: unknown }>({
    text: `SELECT name, value FROM sagax.settings WHERE name IN ('log', 'shards')`,
  });
  const found = rows.find(({ name }) => name === 'log')?.value as Membership | undefined;
  if (found !== undefined) return found;
  return rows.length > 0 ? 'outdated' : null;
}

/** Whether all databases of the log were set up once; kept in the first one. */
export async function isComplete(db: Database): Promise<boolean> {
  const rows = await db.read({
    text: `SELECT FROM sagax.settings WHERE name = 'log_complete'`,
  });
  return rows.length > 0;
}

export async function markComplete(db: Database): Promise<void> {
  await db.read({
    text: `INSERT INTO sagax.settings (name, value) VALUES ('log_complete', 'true') ON CONFLICT (name) DO NOTHING`,
  });
}

function mismatch({ index, count }: Place, why: string): SagaxError {
  return new SagaxError(
    'TOPOLOGY_MISMATCH',
    `The log database given as number ${index + 1} of ${count} is refused: ${why}. Give the databases of the log in the ` +
      'order in which it was set up: SAGAX_LOG_DATABASES with several, DATABASE_URL with one. Neither their number nor ' +
      'their order can be changed.',
  );
}

/** Numbers of the shards that live in this database. */
export function shardsAt({ index, count }: Place, shardCount: number): number[] {
  const shards: number[] = [];
  for (let shard = index; shard < shardCount; shard += count) shards.push(shard);
  return shards;
}
