/**
 * `DeadLetters` on Postgres: messages that could not be applied; written by the append that skipped them.
 *
 * Guards that one is redriven once, however many ask at the same time.
 */
import type { DeadLetters, StoredDeadLetter } from '../ports-read.ts';
import type { Database } from './pool.ts';
import { fromJsonb, toId } from './rows.ts';

const MAX_ROWS = 1_000;
const COLUMNS =
  'id, topic, partition, message_offset, key, headers, value, code, reason, at_ms, redriven_at_ms';

interface Row {
  id: string;
  topic: string;
  partition: number;
  message_offset: string;
  key: Buffer | null;
  headers: unknown;
  value: Buffer | null;
  code: string;
  reason: string;
  at_ms: string;
  redriven_at_ms: string | null;
}

export function postgresDeadLetters(db: Database): DeadLetters {
  return {
    list: async ({ beforeId, limit, includeRedriven }) => {
      const before = beforeId === undefined ? '9223372036854775807' : toId(beforeId);
      if (before === null) return [];
      const rows = await db.read<Row>({
        text: `SELECT ${COLUMNS} FROM sagax.dead_letters
          WHERE id < $1 ${includeRedriven === true ? '' : 'AND redriven_at_ms IS NULL'} ORDER BY id DESC LIMIT $2`,
        values: [before, Math.min(limit, MAX_ROWS)],
      });
      return rows.map(toLetter);
    },
    get: async (id) => {
      if (toId(id) === null) return null;
      const [row] = await db.read<Row>({
        text: `SELECT ${COLUMNS} FROM sagax.dead_letters WHERE id = $1`,
        values: [id],
      });
      return row === undefined ? null : toLetter(row);
    },
    markRedriven: async (id) => {
      if (toId(id) === null) return false;
      // Not repeatable: who asks again after a lost answer would be told that another has redriven it.
      const { rowCount } = await db.write({
        text: `UPDATE sagax.dead_letters SET redriven_at_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
          WHERE id = $1 AND redriven_at_ms IS NULL`,
        values: [id],
      });
      return rowCount === 1;
    },
  };
}

function toLetter(row: Row): StoredDeadLetter {
  return {
    id: row.id,
    topic: row.topic,
    partition: row.partition,
    offset: BigInt(row.message_offset),
    key: row.key?.toString('utf8') ?? null,
    headers: fromJsonb(row.headers) as StoredDeadLetter['headers'],
    value: row.value?.toString('utf8') ?? null,
    code: row.code,
    reason: row.reason,
    at: Number(row.at_ms),
    redrivenAt: row.redriven_at_ms === null ? null : Number(row.redriven_at_ms),
  };
}
