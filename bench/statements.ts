/**
 * The statements that took the database longest, by pg_stat_statements.
 *
 * Times are by the clock: on a machine with fewer cores than busy processes they hold waits for a core,
 * which the shortest execution does not.
 */
import type { PostgresServer } from './servers.ts';

const SHOWN = 14;
const TEXT_LENGTH = 110;

export async function resetStatements({ pool }: PostgresServer): Promise<void> {
  await pool.query('SELECT pg_stat_statements_reset()');
}

export async function topStatements({ pool }: PostgresServer): Promise<string> {
  const { rows } = await pool.query<{ line: string }>(
    `SELECT format('%s ms in all: %s calls, %s ms each, shortest %s, planned %s ms each; a call: %s rows, %s WAL bytes, %s pages | %s',
       round(total_exec_time + total_plan_time), calls, round(mean_exec_time::numeric, 3), round(min_exec_time::numeric, 3),
       round((total_plan_time / calls)::numeric, 3), rows / calls, round(wal_bytes / calls),
       (shared_blks_hit + shared_blks_read) / calls, left(regexp_replace(query, '\\s+', ' ', 'g'), ${TEXT_LENGTH})) AS line
     FROM pg_stat_statements WHERE calls > 0 ORDER BY total_exec_time + total_plan_time DESC LIMIT ${SHOWN}`,
  );
  return `statements by total time\n${rows.map(({ line }) => `  ${line}`).join('\n')}\n`;
}
