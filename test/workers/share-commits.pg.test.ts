/**
 * Workers whose database is that of the Postgres bus: a reply goes out with the commit that stores its answer (I8),
 * and where that can't be, after it, as everywhere else.
 */
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../engine/memory/clock.ts';
import { createPostgresBus, type PostgresBus } from '../../engine/postgres/bus.ts';
import type { BusMessage } from '../../engine/ports.ts';
import { transactional, type Handler } from '../../workers/handlers.ts';
import { createWorker, postgresStore, type PgTx, type Worker } from '../../workers/index.ts';
import type { PostgresStoreOptions } from '../../workers/postgres/store.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import {
  commandFor,
  COMMANDS,
  INBOX,
  messageFor,
  PARTITIONS,
  PREFIX,
  reserve,
} from './support/contracts.ts';
import { keptLog } from './support/logs.ts';

let db: TestDatabase;
let pool: pg.Pool;
let bus: PostgresBus;
/** Counts what the worker publishes the usual way. */
let published: BusMessage[];
let recorder: BusRecorder;
let worker: Worker | null = null;

beforeAll(async () => {
  db = await testDatabase();
  pool = new pg.Pool({ connectionString: db.url, max: 8 });
  pool.on('error', () => undefined);
  await pool.query('CREATE TABLE public.counters (key text PRIMARY KEY, n int NOT NULL)');
});
afterAll(async () => {
  await pool.end();
  await db.drop();
});
beforeEach(async () => {
  published = [];
  recorder = new BusRecorder();
  bus = createPostgresBus({ url: db.url });
  await bus.ensureTopics([
    { topic: INBOX, partitions: PARTITIONS },
    { topic: COMMANDS, partitions: PARTITIONS },
  ]);
});
afterEach(async () => {
  await worker?.kill();
  worker = null;
  await bus.close();
  await pool.query(
    'TRUNCATE public.counters, sagax.bus_messages, sagax.bus_members, sagax.bus_assignments; DROP SCHEMA IF EXISTS shop CASCADE',
  );
  await pool.query('UPDATE sagax.bus_partitions SET next_offset = 0');
});

const reserving = (run: (tx: PgTx, commandId: string) => Promise<unknown>): Handler<PgTx> =>
  transactional<typeof reserve, PgTx>(reserve, async ({ tx, commandId }) => {
    await run(tx, commandId);
    return { reservation: commandId };
  });
const counting = reserving((tx) =>
  tx.query(
    `INSERT INTO public.counters AS c VALUES ('sold', 1) ON CONFLICT (key) DO UPDATE SET n = c.n + 1`,
  ),
);

/** A worker that counts what it publishes by itself. */
async function start(
  handlers: Handler<PgTx>[],
  options: Partial<PostgresStoreOptions> = {},
): Promise<Worker> {
  const publish = bus.publish.bind(bus);
  bus.publish = async (messages) => {
    published.push(...messages.filter(({ topic }) => topic === INBOX));
    await publish(messages);
  };
  worker = createWorker({
    service: 'shop',
    topicPrefix: PREFIX,
    commandPartitions: PARTITIONS,
    store: postgresStore({ pool, schema: 'shop', ...options }),
    handlers,
    bus,
    clock: systemClock,
    log: keptLog(),
  });
  await worker.start();
  bus.subscribe(recorder.options({ group: 'engine', topics: [INBOX] }));
  return worker;
}

const saga = (n: number): string => `9${String(n).padStart(17, '0')}`;
const commands = (count: number): BusMessage[] =>
  Array.from({ length: count }, (_, n) =>
    messageFor(
      commandFor(reserve, {
        sagaId: saga(n),
        replyTo: { topic: INBOX, partition: n % PARTITIONS },
      }),
    ),
  );

/**
 * Commands run by themselves until their handler is known to be quick: on a busy machine that takes more than one.
 * Their traces are taken away. @returns how many there were
 */
async function warmUp(): Promise<number> {
  let count = 0;
  do {
    published = [];
    count += 1;
    await bus.publish([messageFor(commandFor(reserve, { sagaId: saga(1_000 + count) }))]);
    await recorder.until(() => replies().length === count);
  } while (published.length > 0);
  await pool.query('DELETE FROM shop.sagax_inbox');
  await pool.query('DELETE FROM sagax.bus_messages');
  recorder.messages.length = 0;
  return count;
}

interface Reply {
  commandId: string;
  outcome: string;
}
const replies = (): Reply[] =>
  Array.from({ length: PARTITIONS }, (_, partition) => recorder.valuesOf(partition))
    .flat()
    .map((value) => JSON.parse(value ?? '') as Reply);

/** Transactions that stored an answer, and those that put a reply on the bus. */
async function transactions(): Promise<{ answers: Set<string>; replies: Set<string> }> {
  const { rows } = await pool.query<{ what: 'answers' | 'replies'; xmin: string }>(
    `SELECT 'answers' AS what, xmin::text FROM shop.sagax_inbox
      UNION ALL SELECT 'replies', m.xmin::text FROM sagax.bus_messages m
        JOIN sagax.bus_partitions p ON p.id = m.partition_id WHERE p.topic = $1`,
    [INBOX],
  );
  const of = (what: string): Set<string> =>
    new Set(rows.flatMap((row) => (row.what === what ? [row.xmin] : [])));
  return { answers: of('answers'), replies: of('replies') };
}

describe('in one database', () => {
  test('replies go out with the commit that stores the answers, and wake who waits for them here', async () => {
    await start([counting]);
    const before = await warmUp();
    await bus.publish(commands(60));
    await recorder.until(() => replies().length === 60);
    expect(new Set(replies().map(({ commandId }) => commandId)).size).toBe(60);
    expect(replies().every(({ outcome }) => outcome === 'succeeded')).toBe(true);
    const by = await transactions();
    expect(by.replies).toEqual(by.answers);
    expect(published).toEqual([]);
    expect((await pool.query('SELECT n FROM public.counters')).rows).toEqual([{ n: 60 + before }]);
  });

  test('a repeated command gets its answer again, the usual way', async () => {
    await start([counting]);
    const [command] = commands(1) as [BusMessage];
    await bus.publish([command]);
    await recorder.until(() => replies().length === 1);
    published = [];
    await bus.publish([command]);
    await recorder.until(() => replies().length === 2);
    expect(published).toHaveLength(1);
    expect(replies()[0]).toEqual(replies()[1]);
    expect((await pool.query('SELECT n FROM public.counters')).rows).toEqual([{ n: 1 }]);
  });

  test('what is rolled back has said nothing', async () => {
    let wrecked = 0;
    const wrecking = reserving(async (tx, commandId) => {
      await tx.query(`INSERT INTO public.counters VALUES ($1, 1)`, [commandId]);
      // The whole shared transaction is lost: the connection goes.
      if (wrecked < 3 && commandId.endsWith('7.1')) {
        wrecked += 1;
        await tx.query('SELECT pg_terminate_backend(pg_backend_pid())');
      }
    });
    await start([wrecking]);
    const before = await warmUp();
    await bus.publish(commands(30));
    await recorder.until(() => replies().length >= 30);
    expect(wrecked).toBe(3);
    expect(
      replies()
        .map(({ commandId }) => commandId)
        .toSorted(),
    ).toEqual(Array.from({ length: 30 }, (_, n) => `${saga(n)}.1`).toSorted());
    expect((await pool.query('SELECT 1 FROM public.counters')).rowCount).toBe(30 + before);
  });

  test('a reply to a partition that is not there is parked, and keeps no other back', async () => {
    await start([counting]);
    const lost = commandFor(reserve, { replyTo: { topic: INBOX, partition: PARTITIONS } });
    await bus.publish([messageFor(lost), ...commands(10)]);
    await recorder.until(() => replies().length === 10);
    expect((await pool.query('SELECT n FROM public.counters')).rows).toEqual([{ n: 11 }]);
  });
});

function asUser(role: string): string {
  const url = new URL(db.url);
  url.username = role;
  url.password = 'secret';
  return url.toString();
}

describe('elsewhere they are published after the commit', () => {
  /** @returns outcomes of twenty commands, and how many replies were published afterwards */
  async function apart(
    options: Partial<PostgresStoreOptions>,
  ): Promise<{ outcomes: string[]; afterwards: number }> {
    await start([counting], options);
    await bus.publish(commands(20));
    await recorder.until(() => replies().length === 20);
    const outcomes = [...new Set(replies().map(({ outcome }) => outcome))];
    return { outcomes, afterwards: published.length };
  }
  const all = { outcomes: ['succeeded'], afterwards: 20 };

  test('from another database', async () => {
    const other = await testDatabase({ empty: true });
    const far = new pg.Pool({ connectionString: other.url, max: 8 });
    far.on('error', () => undefined);
    await far.query('CREATE TABLE public.counters (key text PRIMARY KEY, n int NOT NULL)');
    expect(await apart({ pool: far })).toEqual(all);
    await worker?.kill();
    await far.end();
    await other.drop();
  });

  test("by a user who has no rights on the bus's tables", async () => {
    const role = `participant_${db.name}`;
    await pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'secret';
      CREATE SCHEMA shop AUTHORIZATION ${role}; GRANT ALL ON public.counters TO ${role}`);
    const own = new pg.Pool({ connectionString: asUser(role), max: 8 });
    own.on('error', () => undefined);
    expect(await apart({ pool: own })).toEqual(all);
    await worker?.kill();
    await own.end();
    await pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  });

  test('once the rights are taken away', async () => {
    const role = `participant_${db.name}`;
    await pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'secret'; CREATE SCHEMA shop AUTHORIZATION ${role};
      GRANT ALL ON public.counters TO ${role}; GRANT USAGE ON SCHEMA sagax TO ${role};
      GRANT SELECT, UPDATE ON sagax.bus_partitions TO ${role}; GRANT INSERT ON sagax.bus_messages TO ${role}`);
    const own = new pg.Pool({ connectionString: asUser(role), max: 8 });
    own.on('error', () => undefined);
    await start([counting], { pool: own });
    const before = await warmUp();
    await bus.publish(commands(5));
    await recorder.until(() => replies().length === 5);
    expect(published).toEqual([]);
    await pool.query(`REVOKE INSERT ON sagax.bus_messages FROM ${role}`);
    await bus.publish(commands(15).slice(5));
    await recorder.until(() => replies().length === 15);
    expect(published).toHaveLength(10);
    expect((await pool.query('SELECT n FROM public.counters')).rows).toEqual([{ n: 15 + before }]);
    await worker?.kill();
    await own.end();
    await pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  });

  test('under another isolation, where two that reply to one partition would conflict', async () => {
    expect(await apart({ isolation: 'repeatable read' })).toEqual(all);
  });
});
