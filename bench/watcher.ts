/**
 * Sees sagas end: looks into the database for those that are waited for.
 *
 * Guards that an end counts only once it can be read, committed and visible, and that looking costs little
 * beside the work: rows of sagas by primary key, or, when too many are waited for, the tails of the shards' logs.
 */
import type pg from 'pg';

export type Watch = 'exact' | 'near' | 'cheap' | 'many';
/** How a saga ended, by its status. */
export type End = 'completed' | 'compensated';

/** Pauses between two looks. */
const PAUSE_MS: { readonly [how in Watch]: number } = { exact: 1, near: 4, cheap: 40, many: 2 };
const TAIL_LIMIT = 2_000;

// Written so that nothing but the primary key can be of use: with a plan that is kept, the server would otherwise go
// through the index of ends, which costs 5 ms a look once 50,000 sagas have ended.
const ROWS_SQL = `
SELECT saga_id, status FROM sagax.sagas
WHERE saga_id = ANY ($1::bigint[]) AND (ended_at_ms + 0 IS NOT NULL OR status || '' = 'stuck')`;

const TAIL_SQL = `
SELECT c.shard, max(t.shard_seq) AS upto, count(t.shard_seq)::int AS n,
  array_agg(t.saga_id) FILTER (WHERE t.type = 'SagaCompleted') AS completed
FROM unnest($1::int[], $2::bigint[]) AS c (shard, after)
CROSS JOIN LATERAL (
  SELECT e.shard_seq, e.saga_id, e.type FROM sagax.events e
  WHERE e.shard = c.shard AND e.shard_seq > c.after
  ORDER BY e.shard_seq LIMIT ${TAIL_LIMIT}) t
GROUP BY c.shard`;

export class EndWatcher {
  readonly #pool: pg.Pool;
  readonly #cursors = new Map<number, string>();
  readonly #waiting = new Map<
    string,
    { resolve: (end: End) => void; reject: (error: Error) => void }
  >();
  #how: Watch = 'exact';
  #stopped = false;
  #running: Promise<void> | null = null;

  /** @param pool whose plans are kept (force_generic_plan) */
  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** Remembers where the shards' logs end now; `many` sees what comes after. */
  async open(): Promise<void> {
    const { rows } = await this.#pool.query<{ shard: number; seq: string }>(
      'SELECT shard, next_seq - 1 AS seq FROM sagax.shard_positions',
    );
    for (const { shard, seq } of rows) this.#cursors.set(shard, seq);
  }

  set how(how: Watch) {
    this.#how = how;
  }

  /** Resolves when the saga's end can be seen. @throws when it is stuck, or the database can't be read */
  ended(sagaId: string): Promise<End> {
    return new Promise((resolve, reject) => {
      this.#waiting.set(sagaId, { resolve, reject });
      this.#running ??= this.#run();
    });
  }

  async close(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    try {
      while (!this.#stopped && this.#waiting.size > 0) {
        const isFull = this.#how === 'many' ? await this.#lookAtTails() : await this.#lookAtRows();
        if (!isFull) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS[this.#how]));
      }
    } catch (error) {
      for (const { reject } of this.#waiting.values()) reject(error as Error);
      this.#waiting.clear();
    }
    this.#running = null;
  }

  async #lookAtRows(): Promise<boolean> {
    const { rows } = await this.#pool.query<{ saga_id: string; status: End | 'stuck' }>({
      name: 'bench-rows',
      text: ROWS_SQL,
      values: [[...this.#waiting.keys()]],
    });
    for (const { saga_id, status } of rows) this.#settle(saga_id, status);
    return false;
  }

  /** @returns whether there is more to be read at once */
  async #lookAtTails(): Promise<boolean> {
    const { rows } = await this.#pool.query<{
      shard: number;
      upto: string;
      n: number;
      completed: string[] | null;
    }>({
      name: 'bench-tails',
      text: TAIL_SQL,
      values: [[...this.#cursors.keys()], [...this.#cursors.values()]],
    });
    for (const { shard, upto, completed } of rows) {
      this.#cursors.set(shard, upto);
      for (const sagaId of completed ?? []) this.#settle(sagaId, 'completed');
    }
    return rows.some(({ n }) => n === TAIL_LIMIT);
  }

  #settle(sagaId: string, end: End | 'stuck'): void {
    const waiting = this.#waiting.get(sagaId);
    this.#waiting.delete(sagaId);
    if (end === 'stuck') waiting?.reject(new Error(`Saga ${sagaId} is stuck.`));
    else waiting?.resolve(end);
  }
}
