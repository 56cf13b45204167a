/** The statements that took the database longest, by pg_stat_statements. */
import type { PostgresServer } from './servers.ts';

const SHOWN = 14;
const TEXT_LENGTH = 110;

export async function resetStatements({ pool }: PostgresServer): Promise<void> {
  await pool.query('SELECT pg_stat_statements_reset()');
}

export async function topStatements({ pool }: PostgresServer): Promise<string> {
  const { rows } = await pool.query<{
    calls: string;
    total_ms: number;
    mean_ms: number;
    rows: string;
    wal_bytes: string;
    hits: string;
    text: string;
  }>(
    `SELECT calls, total_exec_time AS total_ms, mean_exec_time AS mean_ms, rows, wal_bytes,
       shared_blks_hit + shared_blks_read AS hits, regexp_replace(query, '\\s+', ' ', 'g') AS text
     FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT ${SHOWN}`,
  );
  const lines = rows.map(
    (row) =>
      `  ${row.total_ms.toFixed(0).padStart(8)} ms ${row.calls.padStart(8)} calls ${row.mean_ms.toFixed(3).padStart(8)} ms each` +
      ` ${row.rows.padStart(9)} rows ${(Number(row.wal_bytes) / Number(row.calls)).toFixed(0).padStart(7)} WAL B/call` +
      ` ${(Number(row.hits) / Number(row.calls)).toFixed(0).padStart(6)} pages/call  ${row.text.slice(0, TEXT_LENGTH)}`,
  );
  return `statements by total time\n${lines.join('\n')}\n`;
}
