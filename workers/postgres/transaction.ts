/**
 * One transaction on the participant's database, and the handle that handlers get of it.
 *
 * Guards that barrier row, business change and answer commit together: a handler can neither end the
 * transaction by itself nor reach its connection once it is over, when others use it.
 */
import type pg from 'pg';
import { SagaxError } from '../../engine/core/errors.ts';
import type { Answer, Barrier, BarrierEntry, BarrierRow } from '../ports.ts';
import type { TableNames } from './names.ts';
import { endsTransaction } from './statements.ts';

/** What handlers work through on `postgresStore`: a `pg` client inside the worker's transaction. */
export type PgTx = Pick<pg.ClientBase, 'query'>;

const SAVEPOINT = 'sagax_work';
const ENDED =
  'A statement of the handler has ended its transaction: what it did is committed or rolled back without its answer.';

export const ROW_COLUMNS = `command_id, state, input, answer,
  greatest(0, extract(epoch FROM lease_expires_at - clock_timestamp()) * 1000)::float8 AS lease_remaining_ms`;

export interface RawRow {
  command_id: string;
  state: BarrierRow['state'];
  input: unknown;
  answer: unknown;
  lease_remaining_ms: number | null;
}

export function rowOf(raw: RawRow): BarrierRow {
  const head = { commandId: raw.command_id, input: raw.input as BarrierRow['input'] };
  switch (raw.state) {
    case 'done':
      return { ...head, state: 'done', output: raw.answer as never };
    case 'rejected':
      return { ...head, state: 'rejected', failure: raw.answer as never };
    case 'running':
      return { ...head, state: 'running', leaseRemainingMs: raw.lease_remaining_ms ?? 0 };
    default:
      return { ...head, state: raw.state };
  }
}

/** The values of an entry, for the columns command_id … input ($1 … $8). */
export function entryValues(entry: BarrierEntry): unknown[] {
  const { commandId, sagaId, namespace, command, op, of, attempt, input } = entry;
  return [commandId, sagaId, namespace, command, op, of, attempt, JSON.stringify(input)];
}
export const ENTRY_COLUMNS =
  'command_id, saga_id, namespace, command, op, of_command_id, attempt, input';

export function answerJson(outcome: Answer | { state: 'pending' }): string | null {
  if (outcome.state === 'pending') return null;
  return JSON.stringify(outcome.state === 'done' ? outcome.output : outcome.failure);
}

export class PostgresBarrier implements Barrier<PgTx> {
  readonly tx: PgTx;
  readonly #client: pg.ClientBase;
  readonly #names: TableNames;
  readonly #begun: Promise<unknown>;
  #open = true;

  /** @param begun the end of BEGIN, which was sent and not awaited: what follows is sent with it where it can be */
  constructor(client: pg.ClientBase, names: TableNames, begun: Promise<unknown>) {
    this.#client = client;
    this.#names = names;
    this.#begun = begun;
    this.tx = this.#handle();
  }

  /** From here on the handle that the handler has is dead. */
  close(): void {
    this.#open = false;
  }

  async insert(entry: BarrierEntry, state: 'running' | 'superseded'): Promise<boolean> {
    const inserted = this.#client.query({
      name: `sagax-insert-${this.#names.key}`,
      text: `INSERT INTO ${this.#names.inbox} (${ENTRY_COLUMNS}, state)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (command_id) DO NOTHING`,
      values: [...entryValues(entry), state],
    });
    // Without its BEGIN it has committed by itself: a row without lease, which the next try takes over.
    const [{ rowCount }] = await Promise.all([inserted, this.#begun]);
    return rowCount === 1;
  }

  async read(commandId: string): Promise<BarrierRow | null> {
    await this.#begun;
    const { rows } = await this.#client.query<RawRow>(
      `SELECT ${ROW_COLUMNS} FROM ${this.#names.inbox} WHERE command_id = $1`,
      [commandId],
    );
    return rows[0] === undefined ? null : rowOf(rows[0]);
  }

  async takeOver(commandId: string): Promise<boolean> {
    await this.#begun;
    const { rowCount } = await this.#client.query(
      `UPDATE ${this.#names.inbox}
          SET fencing_token = nextval('${this.#names.tokens}'), lease_expires_at = NULL
        WHERE command_id = $1 AND state = 'running'
          AND (lease_expires_at IS NULL OR lease_expires_at <= clock_timestamp())`,
      [commandId],
    );
    return rowCount === 1;
  }

  async answer(commandId: string, answer: Answer): Promise<void> {
    this.close();
    // By what the statements' texts did not show.
    if (this.#client.getTransactionStatus() === 'I') throw new Error(ENDED);
    const { rowCount } = await this.#client.query({
      name: `sagax-answer-${this.#names.key}`,
      text: `UPDATE ${this.#names.inbox}
          SET state = $2, answer = $3, lease_expires_at = NULL, updated_at = clock_timestamp()
        WHERE command_id = $1 AND state = 'running'`,
      values: [commandId, answer.state, answerJson(answer)],
    });
    if (rowCount === 1) return;
    throw new SagaxError('INTERNAL', `Barrier row ${commandId} is not there to be answered.`);
  }

  async savepoint(): Promise<void> {
    await this.#client.query(`SAVEPOINT ${SAVEPOINT}`);
  }

  async rollbackToSavepoint(): Promise<void> {
    // The connection does its statements in order: what was given before this is taken back, and nothing comes after it.
    this.close();
    await this.#client.query(`ROLLBACK TO SAVEPOINT ${SAVEPOINT}`);
  }

  /** The client itself but for `query`, which looks at what it is asked and whether it is still time. */
  #handle(): PgTx {
    const query = (...args: unknown[]): unknown => {
      if (!this.#open) {
        throw new Error(
          'The transaction has ended; a handler must not use `tx` after it returned.',
        );
      }
      assertAllowed(textOfStatement(args[0]));
      const run = this.#client.query as (...all: unknown[]) => unknown;
      return run.apply(this.#client, args);
    };
    return { query } as PgTx;
  }
}

/** The SQL of what `query` was given; undefined when that can't be seen. */
export function textOfStatement(statement: unknown): string | undefined {
  if (typeof statement === 'string') return statement;
  const text = (statement as { text?: unknown } | null | undefined)?.text;
  return typeof text === 'string' ? text : undefined;
}

/** @throws Error when a handler's statement would end the transaction. */
export function assertAllowed(text: string | undefined): void {
  if (text === undefined || !endsTransaction(text)) return;
  throw new Error(
    `"${text.trim().slice(0, 40)}" would end the worker's transaction, which commits the work together ` +
      `with its answer. Leave it out; use SAVEPOINT for a part that may fail.`,
  );
}

/** COMMIT of a transaction that a statement had broken is answered by a rollback, not by an error. */
export async function commit(client: pg.ClientBase): Promise<void> {
  const { command } = await client.query('COMMIT');
  if (command === 'COMMIT') return;
  throw new SagaxError(
    'INTERNAL',
    'A statement of the handler had failed, so nothing was committed. Let its error through, or use a SAVEPOINT.',
  );
}
