/**
 * The barrier of many commands in one transaction: few statements for all of them, a savepoint for each.
 *
 * Guards that one handler's work can be taken back without that of the others, that a statement of it that failed
 * unseen is noticed before the next handler begins, and that those which are begun before others have ended come
 * out as if they had been one after the other: each is one statement, and the server does these in turn. Lock
 * order: all barrier rows, by command id, before the first row of the participant's own.
 */
import type pg from 'pg';
import { SagaxError } from '../../engine/core/errors.ts';
import type { BusMessage, CommitShare } from '../../engine/ports.ts';
import {
  NoWayBack,
  type Answer,
  type BarrierRow,
  type Batch,
  type Insert,
  type Part,
  type PartKind,
} from '../ports.ts';
import type { TableNames } from './names.ts';
import { leavesTraces } from './statements.ts';
import {
  assertAllowed,
  commit,
  ENTRY_COLUMNS,
  ROW_COLUMNS,
  rowOf,
  textOfStatement,
  type PgTx,
  type RawRow,
} from './transaction.ts';

const SAVEPOINT = 'sagax_part';
/** What a statement counts as behind which no other one may come unseen. */
const MANY = 2;
/** What a statement fails with whose rows are missing. */
const DIVISION_BY_ZERO = '22012';
/** What is said to any statement behind one that has failed. */
const IN_FAILED_TRANSACTION = '25P02';

/** What is sent within leaves together: a write to the socket costs more than a small statement does. */
export function inOnePacket<T>(client: pg.ClientBase, send: () => T): T {
  const { stream } = connectionOf(client);
  stream.cork();
  try {
    return send();
  } finally {
    stream.uncork();
  }
}

function connectionOf(client: pg.ClientBase): pg.Connection {
  return (client as pg.ClientBase & { connection: pg.Connection }).connection;
}

export class PostgresBatch implements Batch<PgTx> {
  readonly begun: Promise<unknown>;
  readonly #client: pg.ClientBase;
  readonly #names: TableNames;
  readonly #share: CommitShare | null;
  readonly #savepoint = new Savepoint();
  #committed = false;

  /** @param share set when replies may go out with the commit */
  constructor(
    client: pg.ClientBase,
    names: TableNames,
    begun: Promise<unknown>,
    share: CommitShare | null,
  ) {
    this.#client = client;
    this.#names = names;
    this.begun = begun;
    this.#share = share;
  }

  /** Whether COMMIT was sent. */
  get committed(): boolean {
    return this.#committed;
  }

  async insert(rows: readonly Insert[]): Promise<ReadonlySet<string>> {
    const records = rows.map(({ entry, state }) => ({
      command_id: entry.commandId,
      saga_id: entry.sagaId,
      namespace: entry.namespace,
      command: entry.command,
      op: entry.op,
      of_command_id: entry.of,
      attempt: entry.attempt,
      input: entry.input,
      state,
    }));
    // One parameter, so that one prepared statement does for any number. A null in it is SQL's, not JSON's.
    const inserted = this.#client.query<{ command_id: string }>({
      name: `sagax-insert-all-${this.#names.key}`,
      text: `INSERT INTO ${this.#names.inbox} (${ENTRY_COLUMNS}, state)
        SELECT command_id, saga_id, namespace, command, op, of_command_id, attempt, coalesce(input, 'null'), state
          FROM json_to_recordset($1::json) AS given (command_id text, saga_id bigint, namespace text,
            command text, op text, of_command_id text, attempt integer, input jsonb, state text)
         ORDER BY command_id COLLATE "C"
        ON CONFLICT (command_id) DO NOTHING RETURNING command_id`,
      values: [JSON.stringify(records)],
    });
    const [result] = await Promise.all([inserted, this.begun]);
    return new Set(result.rows.map((row) => row.command_id));
  }

  async read(commandIds: readonly string[]): Promise<ReadonlyMap<string, BarrierRow>> {
    const { rows } = await this.#client.query<RawRow>(
      `SELECT ${ROW_COLUMNS} FROM ${this.#names.inbox} WHERE command_id = ANY ($1::text[])`,
      [commandIds],
    );
    return new Map(rows.map((raw) => [raw.command_id, rowOf(raw)]));
  }

  part(kind: PartKind): Part<PgTx> {
    return new PostgresPart(this.#client, kind, this.#savepoint);
  }

  /** Handlers that come to their statement after some promises that are kept already count as at once. */
  together<T>(begin: () => T): T {
    const { stream } = connectionOf(this.#client);
    stream.cork();
    // Behind all microtasks.
    process.nextTick(() => stream.uncork());
    return begin();
  }

  /** Sends COMMIT along: statements whose rows are missing fail by themselves, and with them the commit. */
  async finish(
    answers: ReadonlyMap<string, Answer>,
    withdrawn: readonly string[],
    replies: readonly BusMessage[],
  ): Promise<{ published: boolean }> {
    const share = (await this.#share?.statement(replies)) ?? null;
    const { said, sent } = inOnePacket(this.#client, () => {
      const before = [...this.#withdraw(withdrawn), ...this.#store(answers)];
      const said = share === null ? null : this.#client.query(share.query);
      const sent = [...before, ...(said === null ? [] : [said]), commit(this.#client)];
      return { said, sent };
    });
    this.#committed = true;
    const ends = await Promise.allSettled(sent);
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed === undefined) {
      if (said !== null) share?.committed((await said).rows);
      return { published: said !== null };
    }
    if (sqlStateOf(failed.reason) !== DIVISION_BY_ZERO) throw failed.reason;
    throw new SagaxError('INTERNAL', 'Barrier rows are not there to be answered.');
  }

  #withdraw(commandIds: readonly string[]): Promise<unknown>[] {
    if (commandIds.length === 0) return [];
    const text = `DELETE FROM ${this.#names.inbox} WHERE command_id = ANY ($1::text[])`;
    return [this.#client.query(text, [commandIds])];
  }

  #store(answers: ReadonlyMap<string, Answer>): Promise<unknown>[] {
    const { inbox, key } = this.#names;
    const [first] = answers;
    if (first === undefined) return [];
    if (answers.size === 1) {
      // Whoever comes alone is in a hurry, and the statement for many is slow to plan.
      const [commandId, answer] = first;
      const stored = this.#client.query({
        name: `sagax-answer-one-${key}`,
        text: `WITH answered AS (
            UPDATE ${inbox} SET state = $2, answer = $3::jsonb, lease_expires_at = NULL, updated_at = clock_timestamp()
             WHERE command_id = $1 AND state = 'running' RETURNING 1)
          SELECT 1 / (count(*) = 1)::int FROM answered`,
        values: [commandId, answer.state, JSON.stringify(valueOf(answer))],
      });
      return [stored];
    }
    // Planned while the table was small, it would go on reading all of it when it has grown. Without a join, and without that
    // way to read (until the commit, which comes next), the only plan left is to look each row up.
    const planned = this.#client.query('SET LOCAL enable_seqscan = off');
    const given = [...answers];
    const stored = this.#client.query({
      name: `sagax-answer-all-${key}`,
      text: `WITH answered AS (
         UPDATE ${inbox} SET state = ($2::text[])[array_position($1::text[], command_id)],
                answer = (($3::text[])[array_position($1::text[], command_id)])::jsonb,
                lease_expires_at = NULL, updated_at = clock_timestamp()
          WHERE command_id = ANY ($1::text[]) AND state = 'running' RETURNING 1)
       SELECT 1 / (count(*) = cardinality($1::text[]))::int FROM answered`,
      values: [
        given.map(([commandId]) => commandId),
        given.map(([, { state }]) => state),
        given.map(([, answer]) => JSON.stringify(valueOf(answer))),
      ],
    });
    return [planned, stored];
  }
}

function sqlStateOf(error: unknown): unknown {
  return (error as { code?: unknown } | null | undefined)?.code;
}

function valueOf(answer: Answer): unknown {
  return answer.state === 'done' ? answer.output : answer.failure;
}

/** The savepoint of a transaction's parts: one name, so that the next part's takes the place of the last one's. */
class Savepoint {
  #set = false;

  /** The statement that sets it; the release of the last one rides along. */
  next(): string {
    const text = this.#set ? `RELEASE SAVEPOINT ${SAVEPOINT}; ` : '';
    this.#set = true;
    return `${text}SAVEPOINT ${SAVEPOINT}`;
  }
}

class PostgresPart implements Part<PgTx> {
  readonly tx: PgTx;
  readonly #client: pg.ClientBase;
  readonly #kind: PartKind;
  readonly #savepoint: Savepoint;
  statements = 0;
  failed: Part<PgTx>['failed'] = null;
  /** Sent with the handler's first statement: one that needs no database costs no savepoint. */
  #saved: Promise<unknown> | null = null;
  /** Statements whose end was not seen yet. */
  #underWay = 0;
  #last = false;
  #open = true;

  constructor(client: pg.ClientBase, kind: PartKind, savepoint: Savepoint) {
    this.#client = client;
    this.#kind = kind;
    this.#savepoint = savepoint;
    const query = (...args: unknown[]): unknown => this.#query(args);
    this.tx = { query } as PgTx;
  }

  async end(what: 'keep' | 'undo'): Promise<{ sound: boolean; last: boolean }> {
    this.#open = false;
    if (this.#isTooMuch()) throw new NoWayBack();
    if (this.statements === 0) return { sound: true, last: false };
    await this.#saved;
    const status = await this.#status();
    if (status !== 'T' && status !== 'E') throw new Error('The transaction is no longer open.');
    const sound = status === 'T';
    if (what === 'keep' && sound) return { sound, last: this.#last };
    if (this.#kind !== 'undoable') throw new NoWayBack();
    await this.#client.query(`ROLLBACK TO SAVEPOINT ${SAVEPOINT}`);
    return { sound, last: false };
  }

  #query(args: unknown[]): unknown {
    if (!this.#open) {
      throw new Error('The transaction has ended; a handler must not use `tx` after it returned.');
    }
    const text = textOfStatement(args[0]);
    assertAllowed(text);
    const isTrace = text === undefined || leavesTraces(text);
    if (isTrace) this.#last = true;
    this.statements += isTrace ? MANY : 1;
    if (this.#isTooMuch()) throw new NoWayBack();
    const run = this.#client.query as (...all: unknown[]) => unknown;
    const result = inOnePacket(this.#client, () => {
      this.#save();
      return run.apply(this.#client, args);
    });
    this.#watch(result);
    return result;
  }

  #save(): void {
    if (this.#saved !== null || this.#kind !== 'undoable') return;
    // Sent, not awaited: the connection does its statements in the order in which they were given.
    this.#saved = this.#client.query(this.#savepoint.next());
    this.#saved.catch(() => undefined);
  }

  #isTooMuch(): boolean {
    return this.#kind === 'single' && this.statements > 1;
  }

  /** One that is told by callback or by events is never seen to end. */
  #watch(result: unknown): void {
    this.#underWay += 1;
    if (!(result instanceof Promise)) {
      this.statements += MANY;
      return;
    }
    const ended = (): void => void (this.#underWay -= 1);
    result.then(ended, (error: unknown) => {
      ended();
      this.failed ??= sqlStateOf(error) === IN_FAILED_TRANSACTION ? 'before' : 'itself';
    });
  }

  /** Whether a statement has failed, as the server said with the last one's end. */
  async #status(): Promise<string | null> {
    // One more, that ends after all that the handler did not wait for; and a failure is told a packet before what it
    // did to the transaction.
    const isTold = this.#underWay === 0 && this.failed === null;
    if (!isTold) await this.#client.query('SELECT').catch(() => undefined);
    return this.#client.getTransactionStatus();
  }
}
