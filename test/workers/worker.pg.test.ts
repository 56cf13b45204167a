/** Workers on a real Postgres: races, conflicts, broken connections, handlers that misuse their transaction. */
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../engine/memory/clock.ts';
import {
  effect,
  transactional,
  type Handler,
  type TransactionalContext,
} from '../../workers/handlers.ts';
import { postgresStore, type PgTx } from '../../workers/index.ts';
import { openBench, type Bench } from './support/bench.ts';
import { charge, commandFor, release, reserve } from './support/contracts.ts';
import { postgresRig, type PgRig } from './support/postgres-rig.ts';

let rig: PgRig;
let bench: Bench;

beforeAll(async () => {
  rig = await postgresRig();
});
afterAll(() => rig.close());
beforeEach(async () => {
  await rig.pool.query('TRUNCATE counters, shop.sagax_inbox');
  bench = await openBench(systemClock);
});
afterEach(() => bench.close());

const saga = (n: number): string => `9${String(n).padStart(17, '0')}`;

type Reserve = TransactionalContext<typeof reserve, PgTx>;

function reserving(run: (context: Reserve) => Promise<unknown>): Handler<PgTx> {
  return transactional<typeof reserve, PgTx>(reserve, async (context) => {
    const result = await run(context);
    return (result as never) ?? { reservation: context.commandId };
  });
}

const counting = (): Handler<PgTx> =>
  reserving(({ tx, input }) => rig.add(tx, 'sold', input.count));
const undoing = (): Handler<PgTx> =>
  transactional<typeof release, PgTx>(release, async ({ tx, input }) => {
    await rig.add(tx, 'sold', -input.count);
    await rig.add(tx, 'undone', 1);
    return {};
  });

describe('races (I8)', () => {
  test('fifty copies of a do, on three workers: one effect, one answer', async () => {
    for (const group of ['a', 'b', 'c']) {
      await bench.start(rig.connect(), [counting()], { group, concurrency: 4 });
    }
    // The same saga id would put them in one lane; as foreign copies they may come in any.
    bench.send(...Array.from({ length: 17 }, () => commandFor(reserve)));
    const replies = await bench.replies(51);
    expect(new Set(replies.map((reply) => JSON.stringify(reply))).size).toBe(1);
    expect(replies[0]?.outcome).toBe('succeeded');
    expect(await rig.count('sold')).toBe(1);
  });

  test('fifty transactions of one do at once: one effect, one answer', async () => {
    const store = rig.connect();
    const entry = { ...commandFor(reserve), op: 'do' as const, of: null };
    const outcomes = await Promise.all(
      Array.from({ length: 50 }, () =>
        store.transaction(async (barrier) => {
          if (!(await barrier.insert(entry, 'running'))) return barrier.read(entry.commandId);
          await rig.add(barrier.tx, 'sold', 1);
          await barrier.answer(entry.commandId, { state: 'done', output: 'first' });
          return barrier.read(entry.commandId);
        }),
      ),
    );
    expect(new Set(outcomes.map((row) => JSON.stringify(row))).size).toBe(1);
    expect(await rig.count('sold')).toBe(1);
  });

  test('fifty copies of an effect at once: it runs once', async () => {
    let runs = 0;
    const charging = effect(charge, async () => {
      runs += 1;
      await systemClock.sleep(20);
      return { charge: `run ${runs}` };
    });
    for (const group of ['a', 'b', 'c', 'd', 'e']) {
      await bench.start(rig.connect(), [charging], { group });
    }
    bench.send(...Array.from({ length: 10 }, () => commandFor(charge)));
    const replies = await bench.replies(50);
    expect(new Set(replies.map((reply) => JSON.stringify(reply))).size).toBe(1);
    expect(runs).toBe(1);
  });

  test('a do, its compensation and its settlement in any order: what was done is undone, and nothing else', async () => {
    // Each worker gets every command, in lanes of its own, so the three meet in the database.
    for (const group of ['a', 'b', 'c']) {
      await bench.start(rig.connect(), [counting(), undoing()], { group });
    }
    const sagas = Array.from({ length: 40 }, (_, n) => saga(n));
    for (const [n, sagaId] of sagas.entries()) {
      const commands = [
        commandFor(reserve, { sagaId }),
        commandFor(release, { sagaId, op: 'compensate' }),
        commandFor(reserve, { sagaId, op: 'settle' }),
      ];
      bench.send(...commands.slice(n % 3), ...commands.slice(0, n % 3));
    }
    const replies = await bench.replies(sagas.length * 9);
    const doneSagas = new Set(
      replies
        .filter((one) => one.commandId.endsWith('.1') && one.outcome === 'succeeded')
        .map((one) => one.sagaId),
    );
    expect(await rig.count('sold')).toBe(0);
    expect(await rig.count('undone')).toBe(doneSagas.size);
    for (const sagaId of sagas) {
      const outcomes = replies.filter(
        (one) => one.sagaId === sagaId && one.commandId.endsWith('.1'),
      );
      // Three copies, and all got the same answer.
      expect(new Set(outcomes.map((one) => one.outcome)).size, sagaId).toBe(1);
    }
  });
});

describe('conflicts', () => {
  test('serialization failures (40001) are tried again: no update is lost', async () => {
    const handler = reserving(async ({ tx }) => {
      const { rows } = await tx.query<{ n: number }>("SELECT n FROM counters WHERE key = 'hot'");
      await tx.query("UPDATE counters SET n = $1 WHERE key = 'hot'", [(rows[0]?.n ?? 0) + 1]);
    });
    await rig.pool.query("INSERT INTO counters VALUES ('hot', 0)");
    await bench.start(rig.connect({ isolation: 'serializable' }), [handler], { concurrency: 4 });
    bench.send(...Array.from({ length: 24 }, (_, n) => commandFor(reserve, { sagaId: saga(n) })));
    const replies = await bench.replies(24);
    expect(new Set(replies.map((reply) => reply.outcome))).toEqual(new Set(['succeeded']));
    expect(await rig.count('hot')).toBe(24);
    // Else nothing has been shown.
    expect(bench.counts.runs).toBeGreaterThan(24);
  });

  test('a deadlock (40P01) costs one of the two another try, not its answer', async () => {
    await rig.pool.query("INSERT INTO counters VALUES ('left', 0), ('right', 0)");
    let first = 0;
    const bothIn = Promise.withResolvers<void>();
    const handler = reserving(async ({ tx, input }) => {
      const [a, b] = input.item === 'lr' ? ['left', 'right'] : ['right', 'left'];
      await rig.add(tx, a, 1);
      first += 1;
      if (first === 2) bothIn.resolve();
      await bothIn.promise;
      await rig.add(tx, b, 1);
    });
    await bench.start(rig.connect(), [handler]);
    bench.send(
      commandFor(reserve, { sagaId: saga(1), input: { item: 'lr', count: 1 } }),
      commandFor(reserve, { sagaId: saga(2), input: { item: 'rl', count: 1 } }),
    );
    const replies = await bench.replies(2);
    expect(replies.map((reply) => reply.outcome)).toEqual(['succeeded', 'succeeded']);
    expect([await rig.count('left'), await rig.count('right')]).toEqual([2, 2]);
    expect(bench.counts.runs).toBeGreaterThan(2);
  });

  test('a connection that is cut under a handler costs another try, not the answer', async () => {
    let cuts = 2;
    const handler = reserving(async ({ tx, input }) => {
      await rig.add(tx, 'sold', input.count);
      cuts -= 1;
      if (cuts >= 0) await tx.query('SELECT pg_terminate_backend(pg_backend_pid())');
    });
    await bench.start(rig.connect(), [handler]);
    bench.send(commandFor(reserve));
    expect((await bench.replies(1))[0]?.outcome).toBe('succeeded');
    expect(await rig.count('sold')).toBe(1);
    expect(bench.counts.runs).toBe(3);
  });
});

/** A statement that does not show its text, as a query object of another library may not. */
function unseen(text: string, done: () => void): pg.Submittable {
  const query = Object.assign(new pg.Query(text), { callback: done });
  return new Proxy(query, {
    get: (of, name): unknown => {
      const value: unknown = name === 'text' ? undefined : Reflect.get(of, name);
      return typeof value === 'function' ? value.bind(of) : value;
    },
  });
}

describe('handlers that misuse their transaction', () => {
  test.each([
    'COMMIT',
    'rollback',
    ' end',
    'BEGIN',
    'ROLLBACK AND CHAIN',
    "prepare transaction 'x'",
    '/* done */ COMMIT',
    '-- name: Finish :exec\nCOMMIT',
    'SELECT 1; COMMIT',
  ])('%s is refused, and everything rolled back', async (statement) => {
    const handler = reserving(async ({ tx }) => {
      await rig.add(tx, 'sold', 1);
      await tx.query(statement);
    });
    await bench.start(rig.connect(), [handler]);
    bench.send(commandFor(reserve));
    expect((await bench.replies(1))[0]).toMatchObject({
      outcome: 'failed',
      failure: { code: 'HANDLER_FAILED', message: expect.stringContaining('would end the worker') },
    });
    expect([await rig.count('sold'), await rig.row(commandFor(reserve).commandId)]).toEqual([
      0,
      null,
    ]);
  });

  test('one that ends it unseen is not answered as a success', async () => {
    const handler = reserving(async ({ tx }) => {
      await rig.add(tx, 'sold', 1);
      await new Promise<void>((resolve) => tx.query(unseen('COMMIT', resolve)));
    });
    await bench.start(rig.connect(), [handler]);
    bench.send(commandFor(reserve));
    expect((await bench.replies(1))[0]).toMatchObject({
      outcome: 'failed',
      failure: { message: expect.stringContaining('has ended its transaction') },
    });
  });

  test('savepoints of its own are its own affair', async () => {
    const handler = reserving(async ({ tx }) => {
      await tx.query('SAVEPOINT mine');
      await rig.add(tx, 'sold', 10);
      await tx.query('ROLLBACK TO mine');
      await rig.add(tx, 'sold', 1);
    });
    await bench.start(rig.connect(), [handler]);
    bench.send(commandFor(reserve));
    expect((await bench.replies(1))[0]?.outcome).toBe('succeeded');
    expect(await rig.count('sold')).toBe(1);
  });

  test('a swallowed SQL error: a success is not believed, a rejection is kept', async () => {
    const handler = reserving(async ({ tx, input, reject }) => {
      await tx.query('SELECT 1/0').catch(() => undefined);
      return input.item === 'no' ? reject('SoldOut', { left: 0 }) : undefined;
    });
    await bench.start(rig.connect(), [handler]);
    bench.send(
      commandFor(reserve, { n: 1 }),
      commandFor(reserve, { n: 2, input: { item: 'no', count: 1 } }),
    );
    const replies = await bench.replies(2);
    expect(replies.map((reply) => reply.outcome)).toEqual(['failed', 'rejected']);
    expect(await rig.row(commandFor(reserve).commandId)).toBe(null);
  });

  test('one that hangs on a lock is torn out of it by the drain, and the next worker can go on', async () => {
    const blocker = await rig.pool.connect();
    await blocker.query("BEGIN; INSERT INTO counters VALUES ('sold', 0)");
    try {
      const worker = await bench.start(rig.connect(), [counting()]);
      bench.send(commandFor(reserve));
      // Until its statement waits for the blocker's.
      const waiting = `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                        AND datname = current_database()`;
      while ((await rig.pool.query(waiting)).rowCount === 0) await systemClock.sleep(5);
      await worker.drain(10);
      while ((await rig.pool.query(waiting)).rowCount !== 0) await systemClock.sleep(5);
      // The barrier row's lock is free as well: nobody waits for it.
      expect(await rig.row(commandFor(reserve).commandId)).toBe(null);
      await blocker.query('ROLLBACK');
    } finally {
      blocker.release();
    }
    await bench.start(rig.connect(), [counting()]);
    expect((await bench.replies(1))[0]).toMatchObject({ outcome: 'succeeded', attempt: 1 });
    expect(await rig.count('sold')).toBe(1);
  });
});

describe('a worker that is gone without a word', () => {
  const entry = { ...commandFor(reserve), op: 'do' as const, of: null };
  const limits = async (pool: pg.Pool, options: object = {}): Promise<unknown> => {
    const store = postgresStore({ pool, schema: 'shop', ...options });
    await store.start();
    return store.transaction(async ({ tx }) => {
      const { rows } = await tx.query(`SELECT current_setting('lock_timeout') AS lock,
        current_setting('idle_in_transaction_session_timeout') AS idle`);
      return rows[0] as unknown;
    });
  };

  test('its rows are free after a while, though nobody has set a limit', async () => {
    const store = rig.connect({ idleLimitMs: 200 });
    await store.start();
    const inserted = Promise.withResolvers<void>();
    const never = Promise.withResolvers<never>();
    const gone = store.transaction(async (barrier) => {
      await barrier.insert(entry, 'running');
      inserted.resolve();
      return never.promise;
    });
    await inserted.promise;
    const claim = await rig.connect().claim(entry, 60_000);
    expect(claim.claimed).toBe(true);
    never.reject(new Error('it was found out'));
    await expect(gone).rejects.toThrow('found out');
  });

  test('limits that are set are left alone, and hold in transactions only', async () => {
    expect(await limits(rig.pool)).toEqual({ lock: '90s', idle: '90s' });
    expect(await limits(rig.pool, { idleLimitMs: 1_500 })).toEqual({
      lock: '1500ms',
      idle: '1500ms',
    });
    expect((await rig.pool.query('SHOW lock_timeout')).rows).toEqual([{ lock_timeout: '0' }]);
    const own = new pg.Pool({ ...rig.pool.options, max: 1, lock_timeout: 5_000 });
    try {
      expect(await limits(own)).toEqual({ lock: '5s', idle: '90s' });
    } finally {
      await own.end();
    }
  });

  test.each([0, 1.5, Number.NaN])('a limit of %s is refused', (idleLimitMs) => {
    expect(() => rig.connect({ idleLimitMs })).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
  });
});

describe('set-up and upkeep', () => {
  test('ten workers that start at once make one table; its names can be chosen', async () => {
    const options = { pool: rig.pool, schema: 'fresh', table: 'my_inbox' };
    await Promise.all(Array.from({ length: 10 }, () => postgresStore(options).start()));
    const { rows } = await rig.pool.query('SELECT number, breaking FROM fresh.my_inbox_migrations');
    expect(rows).toEqual([{ number: 1, breaking: false }]);
    const store = postgresStore(options);
    const entry = { ...commandFor(reserve), op: 'do' as const, of: null };
    // On the same connections as the other store: their prepared statements must not meet.
    const one = new pg.Pool({ ...rig.pool.options, max: 1 });
    try {
      for (const schema of ['fresh', 'shop']) {
        const table = schema === 'fresh' ? 'my_inbox' : 'sagax_inbox';
        const there = postgresStore({ pool: one, schema, table });
        expect(await there.transaction((barrier) => barrier.insert(entry, 'superseded'))).toBe(
          true,
        );
      }
    } finally {
      await one.end();
    }
    expect(await store.claim(entry, 1_000)).toMatchObject({ claimed: false });
  });

  test('a store that is older than a breaking migration refuses to start; others go on', async () => {
    const store = postgresStore({ pool: rig.pool, schema: 'newer' });
    await store.start();
    const add = (number: number, breaking: boolean): Promise<unknown> =>
      rig.pool.query(
        'INSERT INTO newer.sagax_inbox_migrations (number, breaking) VALUES ($1, $2)',
        [number, breaking],
      );
    await add(900, false);
    await store.start();
    await add(901, true);
    await expect(store.start()).rejects.toMatchObject({ code: 'SCHEMA_NEWER' });
  });

  test.each(['Robert"; DROP', '', '1st', 'x'.repeat(49)])(
    'the schema name %j is refused',
    (schema) => {
      expect(() => postgresStore({ pool: rig.pool, schema })).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    },
  );

  test('prune deletes answered rows of the age, in pieces, and never one that is open', async () => {
    const store = rig.connect();
    for (let n = 1; n <= 4; n += 1) {
      const entry = { ...commandFor(charge, { n }), op: 'do' as const, of: null };
      const claim = await store.claim(entry, 60_000);
      if (!claim.claimed) throw new Error('not claimed');
      const outcome = { state: 'done', output: null } as const;
      if (n <= 3) await store.record(entry.commandId, claim.fencingToken, outcome);
    }
    expect(await store.prune({ olderThanMs: 60_000, limit: 10 })).toBe(0);
    expect(await store.prune({ olderThanMs: 0, limit: 2 })).toBe(2);
    expect(await store.prune({ olderThanMs: 0, limit: 2 })).toBe(1);
    const { rows } = await rig.pool.query('SELECT state FROM shop.sagax_inbox');
    expect(rows).toEqual([{ state: 'running' }]);
  });
});
