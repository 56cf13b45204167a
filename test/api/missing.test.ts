/** A log over several databases of which one is away: the API answers what it can, and says what is missing. */
import { describe, expect, it } from 'vitest';
import { SagaWatch } from '../../api/watch.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import { ManualClock } from '../../engine/memory/index.ts';
import type { SagaSummary } from '../../engine/ports.ts';
import type { MissingPart, PartOptions } from '../../engine/ports-read.ts';
import { openApi } from './support.ts';

const away = new SagaxError('DATABASE_UNAVAILABLE', 'The log database 2 of 2 (db-2:5432) is away.');
const part: MissingPart = {
  part: 2,
  parts: 2,
  shards: [1, 3],
  holds: (sagaId) => sagaId === '2',
  error: away,
};
const says = { part: 2, parts: 2, shards: [1, 3] };
/** As a port over two databases does it. */
const answer =
  <T>(value: T) =>
  async (options?: PartOptions): Promise<T> => {
    if (options?.onMissing === undefined) throw away;
    options.onMissing(part);
    return value;
  };

const partly = () =>
  openApi({
    reader: {
      list: (_query, options) => answer([])(options),
      shards: answer([]),
      ping: answer(undefined),
      get: async () => {
        throw away;
      },
    },
    deadLetters: { list: (_query, options) => answer([])(options) },
  });

describe('a part of the log is away', () => {
  it.each(['/v1/sagas', '/v1/dead-letters', '/v1/shards'])('%s says so', async (url) => {
    const { app } = await partly();
    const response = await app.inject({ url });
    expect(response.statusCode).toBe(200);
    expect(response.json()).toMatchObject({ items: [], missing: [says] });
  });

  it('the process stays ready for the rest, and tells', async () => {
    const { app } = await partly();
    const response = await app.inject({ url: '/readyz' });
    expect(response.statusCode).toBe(200);
    expect(response.json()).toEqual({
      status: 'ready',
      checks: { database: 'ok but for part 2 of 2', bus: 'ok', ids: 'ok' },
    });
  });

  it('a saga that lives there is unavailable, not unknown; where the database is does not get out', async () => {
    const { app, ids } = await partly();
    const response = await app.inject({ url: `/v1/sagas/${ids.next()}` });
    expect(response.statusCode).toBe(503);
    expect(response.json()).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(response.body).not.toContain('db-2');
  });

  it('nothing is said to be missing when all is there', async () => {
    const { app } = await openApi();
    for (const url of ['/v1/sagas', '/v1/dead-letters', '/v1/shards']) {
      expect((await app.inject({ url })).json()).not.toHaveProperty('missing');
    }
  });

  it('who waits for a saga of another part gets it; who waits for one of this part learns why not', async () => {
    const clock = new ManualClock();
    const summary = { sagaId: '1', namespace: 'default', status: 'running', streamVersion: 1 };
    const watch = new SagaWatch({
      clock,
      limit: 10,
      onError: () => undefined,
      reader: { getMany: (_keys, options) => answer([summary as SagaSummary])(options) },
    });
    const options = { ms: 1_000, waiter: { caller: 'me', gone: new AbortController().signal } };
    const here = watch.wait('default', '1', () => true, options);
    const there = watch.wait('default', '2', () => true, options);
    await Promise.all([expect(there).rejects.toBe(away), clock.advance(2_000)]);
    expect(await here).toMatchObject({ sagaId: '1' });
    watch.close();
  });
});
