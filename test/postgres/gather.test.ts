/** Group commit by itself: what joins, what waits, what is tried alone, and its limits. */
import { expect, test } from 'vitest';
import { Gatherer, type Gathering, type Outcome } from '../../engine/postgres/gather.ts';

interface Item {
  key: number;
  size: number;
}
interface Statement {
  keys: number[];
  end: (outcomes?: Outcome<string>[] | Error) => void;
}

/** A queue whose statements end when the test says so. */
function setUp(limits: Partial<Gathering<Item, string>> = {}) {
  const statements: Statement[] = [];
  let wake: (() => void) | null = null;
  const begin = (items: readonly Item[]): Promise<Outcome<string>[]> =>
    new Promise((resolve, reject) => {
      statements.push({
        keys: items.map(({ key }) => key),
        end: (outcomes) => {
          if (outcomes instanceof Error) return reject(outcomes);
          resolve(outcomes ?? items.map(({ key }) => ({ value: `done ${key}` })));
        },
      });
      wake?.();
    });
  const queue = new Gatherer<Item, string>({
    slots: 1,
    maxItems: 100,
    maxSize: 100,
    sizeOf: ({ size }) => size,
    keyOf: ({ key }) => key,
    together: begin,
    alone: async (item) => {
      const [outcome] = await begin([item]);
      if (outcome === undefined || outcome === 'alone') throw new Error('no outcome');
      if ('error' in outcome) throw outcome.error;
      return outcome.value;
    },
    ...limits,
  });
  return {
    call: (key: number, size = 1) => queue.run({ key, size }),
    /** The n-th statement, once it has begun. */
    statement: async (index: number): Promise<Statement> => {
      for (;;) {
        const found = statements[index];
        if (found !== undefined) return found;
        await new Promise<void>((resolve) => (wake = resolve));
      }
    },
    begun: () => statements.length,
  };
}

test('calls of one turn leave together, later ones gather while those are under way', async () => {
  const { call, statement, begun } = setUp();
  const first = [call(1), call(2)];
  expect((await statement(0)).keys).toEqual([1, 2]);
  const second = [call(3), call(4), call(5)];
  expect(begun()).toBe(1);
  (await statement(0)).end();
  expect(await Promise.all(first)).toEqual(['done 1', 'done 2']);
  expect((await statement(1)).keys).toEqual([3, 4, 5]);
  (await statement(1)).end();
  expect(await Promise.all(second)).toEqual(['done 3', 'done 4', 'done 5']);
});

test('statements stay within the limits of items and of size; one that is over it goes alone', async () => {
  const { call, statement } = setUp({ maxItems: 3, maxSize: 10, slots: 10 });
  const calls = [call(1, 4), call(2, 4), call(3, 4), call(4, 50), call(5, 1), call(6, 1)];
  // 3 does not fit beside 1 and 2, but 5 does; 4 is too large for any company.
  const keys: number[][] = [];
  for (let index = 0; index < 3; index++) {
    const one = await statement(index);
    keys.push(one.keys);
    one.end();
  }
  expect(keys).toEqual([[1, 2, 5], [3, 6], [4]]);
  await Promise.all(calls);
});

test('at most so many statements under way, and one of a key at a time, in order', async () => {
  const { call, statement, begun } = setUp({ slots: 2, maxItems: 2 });
  const calls = [call(1), call(1), call(2), call(3), call(1), call(4)];
  const [a, b] = [await statement(0), await statement(1)];
  expect([a.keys, b.keys]).toEqual([
    [1, 2],
    [3, 4],
  ]);
  expect(begun()).toBe(2);
  b.end();
  await calls[3];
  // A slot is free, but the key is busy.
  await new Promise(setImmediate);
  expect(begun()).toBe(2);
  a.end();
  (await statement(2)).end();
  await calls[1];
  expect((await statement(3)).keys).toEqual([1]);
  (await statement(3)).end();
  expect(await Promise.all(calls)).toHaveLength(6);
});

test('an outcome for each: done, failed, or tried alone outside of the slot', async () => {
  const { call, statement } = setUp();
  const [one, two, three] = [call(1), call(2), call(3)];
  const failed = two.catch((error: unknown) => error);
  (await statement(0)).end([{ value: 'well' }, { error: new Error('two') }, 'alone']);
  expect(await one).toBe('well');
  expect(await failed).toEqual(new Error('two'));
  const alone = await statement(1);
  expect(alone.keys).toEqual([3]);
  // 3 waits for a lock, say: others go on, its own next one waits for it.
  const next = [call(3), call(4)];
  expect((await statement(2)).keys).toEqual([4]);
  (await statement(2)).end();
  expect(await next[1]).toBe('done 4');
  alone.end([{ error: new Error('three') }]);
  await expect(three).rejects.toThrow('three');
  (await statement(3)).end();
  expect(await next[0]).toBe('done 3');
});

test('a statement that fails by a throw fails for all in it, and the queue goes on', async () => {
  const { call, statement } = setUp();
  const all = Promise.allSettled([call(1), call(2)]);
  (await statement(0)).end(new Error('lost'));
  expect((await all).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  const after = call(1);
  (await statement(1)).end();
  expect(await after).toBe('done 1');
});
