/** Batches on a real Postgres: the suite, and what handlers that share a transaction could do to each other. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../../engine/memory/clock.ts';
import { transactional, type Handler, type TransactionalContext } from '../../workers/handlers.ts';
import type { PgTx } from '../../workers/index.ts';
import { batchSuite } from './support/batch-suite.ts';
import { commandFor, release, reserve } from './support/contracts.ts';
import { executions, trusting } from './support/executions.ts';
import { postgresRig, type PgRig } from './support/postgres-rig.ts';
import { Trust } from '../../workers/trust.ts';

for (const pipeline of [false, true]) {
  const name = pipeline ? 'postgres, statements sent ahead' : 'postgres';
  batchSuite(name, () => postgresRig({ pipeline }));
  describe(`${name}: handlers in one transaction`, () => {
    inOne(pipeline);
  });
}

test('answers are found by the index, also where they were planned while the table was small', async () => {
  const rig = await postgresRig({ max: 1 });
  const reserving = transactional<typeof reserve, PgTx>(reserve, async ({ commandId }) => ({
    reservation: commandId,
  }));
  for (let n = 0; n < 7; n++) {
    const { run } = executions(rig, rig.connect(), [reserving], 'in batches');
    const sagas = [1, 2, 3].map((m) => `6${String(10 * n + m).padStart(17, '0')}`);
    await Promise.all(sagas.map((sagaId) => run(commandFor(reserve, { sagaId }))));
  }
  // On the connection that has stored them all: the plan that it has kept.
  const { rows: kept } = await rig.pool.query<{ name: string; generic_plans: string }>(
    `SELECT name, generic_plans FROM pg_prepared_statements WHERE name LIKE 'sagax-answer-all-%'`,
  );
  expect(Number(kept[0]?.generic_plans)).toBeGreaterThan(0);
  const { rows } = await rig.pool.query<{ 'QUERY PLAN': string }>(
    `EXPLAIN EXECUTE "${kept[0]?.name ?? ''}" ('{}', '{}', '{}')`,
  );
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).toContain('Index Cond: (command_id = ANY ($1))');
  expect(plan).not.toContain('Seq Scan');
  await rig.close();
});

test('a database that takes long to give a connection and to commit costs no second run', async () => {
  const rig = await postgresRig({ max: 1 });
  const sagas = [1, 2, 3].map((n) => `4${String(n).padStart(17, '0')}`);
  await rig.pool.query(`
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.3); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON counters DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW WHEN (NEW.key = '${sagas[0]}') EXECUTE FUNCTION slowly()`);
  let runs = 0;
  const handler = transactional<typeof reserve, PgTx>(reserve, async ({ tx, sagaId }) => {
    runs += 1;
    await rig.add(tx, sagaId, 1);
    return { reservation: sagaId };
  });
  const world = executions(rig, rig.connect(), [handler], 'in batches');
  const only = await rig.pool.connect();
  const replies = sagas.map((sagaId) => world.run(commandFor(reserve, { sagaId })));
  await systemClock.sleep(1_300);
  only.release();
  const outcomes = (await Promise.all(replies)).map(({ outcome }) => outcome);
  expect(outcomes).toEqual(sagas.map(() => 'succeeded'));
  expect([world.batches, runs]).toEqual([1, 3]);
  const { rowCount } = await rig.pool.query('SELECT DISTINCT xmin FROM shop.sagax_inbox');
  expect(rowCount).toBe(1);
  await rig.close();
});

type Context = TransactionalContext<typeof reserve, PgTx>;

function inOne(pipeline: boolean): void {
  let rig: PgRig;
  let sagas = 0;
  beforeAll(async () => {
    rig = await postgresRig({ pipeline });
  });
  afterAll(() => rig.close());

  const commandOf = (item: string) =>
    commandFor(reserve, {
      sagaId: `5${String((sagas += 1)).padStart(17, '0')}`,
      input: { item, count: 1 },
    });

  /** What comes at once goes together. */
  const together = async (
    items: readonly string[],
    run: (context: Context) => Promise<unknown>,
    trust = new Trust(),
  ) => {
    const handler: Handler<PgTx> = transactional<typeof reserve, PgTx>(reserve, async (context) => {
      await run(context);
      return { reservation: context.commandId };
    });
    const world = executions(rig, rig.connect(), [handler], 'in batches', { trust });
    const commands = items.map((item) => commandOf(item));
    const replies = await Promise.all(commands.map((command) => world.run(command)));
    expect(world.batches).toBe(1);
    return { replies, commands, outcomes: replies.map(({ outcome }) => outcome) };
  };

  test.each([
    `SELECT set_config('app.tenant', 'a', true)`,
    `/* shop /* eu */ */ SET LOCAL app.tenant = 'a'`,
    `-- name: SetTenant :exec\nSET LOCAL app.tenant = 'a'`,
    `SELECT 1; SET LOCAL app.tenant = 'a'`,
  ])('a setting of one is not there for the next: %j', async (setting) => {
    const seen: string[] = [];
    const { outcomes } = await together(['a', 'look', 'look'], async ({ tx, input }) => {
      if (input.item === 'a') await tx.query(setting);
      const { rows } = await tx.query<{ tenant: string | null }>(
        `SELECT current_setting('app.tenant', true) AS tenant`,
      );
      seen.push(`${input.item}:${rows[0]?.tenant ?? ''}`);
    });
    expect(outcomes).toEqual(['succeeded', 'succeeded', 'succeeded']);
    expect(seen.toSorted()).toEqual(['a:a', 'look:', 'look:']);
  });

  test.each([
    ['swallowed', (tx: PgTx) => tx.query('SELECT 1/0').catch(() => undefined)],
    ['not waited for', async (tx: PgTx) => void tx.query('SELECT 1/0').catch(() => undefined)],
    ['told by callback', async (tx: PgTx) => tx.query('SELECT 1/0', () => undefined)],
  ])('a failed statement that is %s: its success is not believed, others stay', async (_, fail) => {
    const { outcomes, commands, replies } = await together(['x', 'bad', 'y'], async (context) => {
      await rig.add(context.tx, context.sagaId, 1);
      if (context.input.item === 'bad') await fail(context.tx);
    });
    expect(outcomes).toEqual(['succeeded', 'failed', 'succeeded']);
    expect(replies[1]).toMatchObject({ failure: { code: 'HANDLER_FAILED' } });
    expect(await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)))).toEqual([1, 0, 1]);
    expect(await rig.row(commands[1]!.commandId)).toBe(null);
  });

  test('one that has long needed no way back costs no subtransaction', async () => {
    const own: boolean[] = [];
    const handler: Handler<PgTx> = transactional<typeof reserve, PgTx>(reserve, async (context) => {
      await rig.add(context.tx, context.sagaId, 1);
      const { rows } = await context.tx.query<{ own: boolean }>(
        `SELECT xmin::text = pg_current_xact_id()::xid::text AS own FROM counters WHERE key = $1`,
        [context.sagaId],
      );
      own.push(rows[0]?.own === true);
      return { reservation: context.commandId };
    });
    for (const trust of [undefined, trusting(2, reserve)]) {
      const options = trust === undefined ? {} : { trust };
      const world = executions(rig, rig.connect(), [handler], 'in batches', options);
      await Promise.all(['a', 'b'].map((item) => world.run(commandOf(item))));
      expect(world.batches).toBe(1);
    }
    expect(own).toEqual([false, false, true, true]);
  });

  describe('that are trusted to be one statement each', () => {
    const counter = (key: string) =>
      rig.pool.query('INSERT INTO counters VALUES ($1, 0) ON CONFLICT (key) DO UPDATE SET n = 0', [
        key,
      ]);

    test('are begun before the first has ended, and their statements come one after the other', async () => {
      await counter('shared');
      let begun = 0;
      const seen: { begun: number; n: number }[] = [];
      const { outcomes } = await together(
        ['a', 'b', 'c', 'd'],
        async ({ tx }) => {
          // A promise or two before it make no difference.
          await Promise.resolve();
          begun += 1;
          const { rows } = await tx.query<{ n: number }>(
            `UPDATE counters SET n = n + 1 WHERE key = 'shared' RETURNING n::int`,
          );
          seen.push({ begun, n: rows[0]?.n ?? 0 });
        },
        trusting(1, reserve),
      );
      expect(outcomes).toEqual(Array.from({ length: 4 }, () => 'succeeded'));
      expect(seen).toEqual([1, 2, 3, 4].map((n) => ({ begun: 4, n })));
    });

    // Locks are no help among those who share a transaction: only their order is.
    test.each([
      ['lets through its error', (tx: PgTx, text: string) => tx.query(text)],
      [
        'swallows it',
        async (tx: PgTx, text: string) => {
          try {
            await tx.query(text);
          } catch {
            // As if nothing had happened.
          }
        },
      ],
    ])('one that has more of them, and %s, loses no update', async (_, ask) => {
      await counter('shared');
      const trust = trusting(1, reserve);
      const { outcomes } = await together(
        ['a', 'b', 'c', 'd'],
        async ({ tx }) => {
          const text = `SELECT n::int FROM counters WHERE key = 'shared' FOR UPDATE`;
          const { rows } = await tx.query<{ n: number }>(text);
          const next = (rows[0]?.n ?? 0) + 1;
          await ask(tx, `UPDATE counters SET n = ${next} WHERE key = 'shared'`);
        },
        trust,
      );
      expect(outcomes).toEqual(Array.from({ length: 4 }, () => 'succeeded'));
      expect(await rig.count('shared')).toBe(4);
      // It goes on without a savepoint, and waits for its turn.
      expect([trust.has(reserve.name), trust.hasSingle(reserve.name)]).toEqual([true, false]);
    });

    test.each([
      ['fails', 'SELECT 1/0', 'failed'],
      ['makes a setting', `SET LOCAL app.tenant = 'a'`, 'succeeded'],
    ])('one that %s changes nothing for the others', async (_, text, outcome) => {
      const { commands, outcomes } = await together(
        ['x', 'odd', 'y'],
        async ({ tx, input, sagaId }) => {
          const isOdd = input.item === 'odd';
          await tx
            .query(
              isOdd
                ? text
                : `INSERT INTO counters VALUES ($1, 1) RETURNING current_setting('app.tenant', true)`,
              isOdd ? [] : [sagaId],
            )
            .then(({ rows: [row] }) => expect(Object.values(row ?? {})).not.toContain('a'));
        },
        trusting(1, reserve),
      );
      expect(outcomes).toEqual(['succeeded', outcome, 'succeeded']);
      expect(await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)))).toEqual([1, 0, 1]);
    });

    test.each([
      ['lets it through', (asked: Promise<unknown>) => asked],
      ['swallows it', (asked: Promise<unknown>) => asked.catch(() => undefined)],
      [
        'does not wait for it',
        async (asked: Promise<unknown>) => void asked.catch(() => undefined),
      ],
    ])('one that has an error and %s is no longer trusted, and others are', async (_, meet) => {
      const trust = trusting(1, reserve, release);
      const bad = commandOf('bad');
      const good = [1, 2].map(() => commandOf('good'));
      const handlers = [
        transactional<typeof reserve, PgTx>(reserve, async ({ tx, input, commandId }) => {
          await meet(tx.query(input.item === 'bad' ? 'SELECT 1/0' : 'SELECT 1'));
          return { reservation: commandId };
        }),
        transactional<typeof release, PgTx>(release, async ({ tx }) => {
          await tx.query('SELECT 1');
          return {};
        }),
      ];
      const alone = executions(rig, rig.connect(), handlers, 'one by one');
      for (const command of good) await alone.run(command);
      const world = executions(rig, rig.connect(), handlers, 'in batches', { trust });
      const undo = good.map(({ sagaId }) => commandFor(release, { sagaId, op: 'compensate' }));
      const commands = [undo[0]!, bad, undo[1]!];
      const replies = await Promise.all(commands.map((command) => world.run(command)));
      expect(world.batches).toBe(1);
      expect(replies.map(({ outcome }) => outcome)).toEqual(['succeeded', 'failed', 'succeeded']);
      expect([trust.has(reserve.name), trust.hasSingle(release.name)]).toEqual([false, true]);
    });

    test('one that is told by callback is run in its turn from then on', async () => {
      const trust = trusting(1, reserve);
      const count = (key: string) =>
        `INSERT INTO counters VALUES ('${key}', 1) ON CONFLICT (key) DO UPDATE SET n = counters.n + 1`;
      const { commands, outcomes } = await together(
        ['a', 'b'],
        async ({ tx, sagaId }) => tx.query(count(sagaId), () => undefined),
        trust,
      );
      expect(outcomes).toEqual(['succeeded', 'succeeded']);
      expect(await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)))).toEqual([1, 1]);
      expect(trust.hasSingle(reserve.name)).toBe(false);
    });
  });

  test('a handler can neither end the transaction nor use it when it has returned', async () => {
    let kept: PgTx | undefined;
    const late: string[] = [];
    const { outcomes, commands } = await together(['x', 'end', 'y'], async (context) => {
      const { tx, input, sagaId } = context;
      await rig.add(tx, sagaId, 1);
      if (input.item === 'x') kept = tx;
      else late.push(refusalOf(() => kept?.query('SELECT 1')));
      if (input.item === 'end') await tx.query('COMMIT');
    });
    expect(late).toEqual([expect.stringMatching(/has ended/), expect.stringMatching(/has ended/)]);
    expect(outcomes).toEqual(['succeeded', 'failed', 'succeeded']);
    expect(await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)))).toEqual([1, 0, 1]);
  });

  test.each([['x', 'gone'], ['gone']])(
    'an answer whose row is gone is not committed: %s, %s',
    async (...items) => {
      const { outcomes, commands } = await together(items, async ({ tx, input, ...context }) => {
        await rig.add(tx, context.sagaId, 1);
        if (input.item !== 'gone') return;
        await tx.query('DELETE FROM shop.sagax_inbox WHERE command_id = $1', [context.commandId]);
      });
      const isGone = items.map((item) => item === 'gone');
      expect(outcomes).toEqual(isGone.map((gone) => (gone ? 'failed' : 'succeeded')));
      const counts = await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)));
      expect(counts).toEqual(isGone.map((gone) => (gone ? 0 : 1)));
    },
  );

  test('a constraint that is looked at in the end costs only whom it is about', async () => {
    await rig.pool.query(
      `CREATE TABLE IF NOT EXISTS seats (n int, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)`,
    );
    await rig.pool.query('TRUNCATE seats');
    const { outcomes } = await together(['1', '2', '2', '3'], ({ tx, input }) =>
      tx.query('INSERT INTO seats VALUES ($1)', [Number(input.item)]),
    );
    expect(outcomes).toHaveLength(4);
    expect(outcomes.filter((outcome) => outcome === 'succeeded')).toHaveLength(3);
    const { rows } = await rig.pool.query<{ n: number }>('SELECT n FROM seats ORDER BY n');
    expect(rows.map(({ n }) => n)).toEqual([1, 2, 3]);
  });

  test('two batches that take the same rows in opposite orders both get through', async () => {
    await rig.pool.query(
      `INSERT INTO counters VALUES ('left', 0), ('right', 0) ON CONFLICT (key) DO UPDATE SET n = 0`,
    );
    let waiting = 0;
    const bothIn = Promise.withResolvers<void>();
    let runs = 0;
    const add = async ({ tx, input }: Context): Promise<void> => {
      runs += 1;
      await rig.add(tx, input.item, 1);
      waiting += 1;
      if (waiting === 2) bothIn.resolve();
      await bothIn.promise;
    };
    // Each has its first row before the other goes for it.
    const orders = [
      ['left', 'right', 'left', 'right'],
      ['right', 'left', 'right', 'left'],
    ];
    const all = await Promise.all(orders.map((items) => together(items, add)));
    for (const { outcomes } of all) {
      expect(outcomes).toEqual(Array.from({ length: 4 }, () => 'succeeded'));
    }
    expect([await rig.count('left'), await rig.count('right')]).toEqual([4, 4]);
    // Else they have not met.
    expect(runs).toBeGreaterThan(8);
  });

  test('a connection that is cut under a batch costs another try, not the answers', async () => {
    let cuts = 1;
    const { outcomes, commands } = await together(['x', 'cut', 'y'], async (context) => {
      await rig.add(context.tx, context.sagaId, 1);
      if (context.input.item !== 'cut') return;
      cuts -= 1;
      if (cuts >= 0) await context.tx.query('SELECT pg_terminate_backend(pg_backend_pid())');
    });
    expect(outcomes).toEqual(['succeeded', 'succeeded', 'succeeded']);
    expect(await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)))).toEqual([1, 1, 1]);
  });
}

function refusalOf(run: () => unknown): string {
  try {
    run();
    return 'it was let through';
  } catch (error) {
    return (error as Error).message;
  }
}
