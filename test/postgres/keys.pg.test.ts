/** Start keys and dead letters under many callers at once (I4). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import type { DeadLetter } from '../../engine/ports.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { sagaId, T0, taken, Writer } from './fixtures.ts';

let db: TestDatabase;
let ports: PostgresPorts;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 2, migrate: false, max: 20 });
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

type Reservation = Parameters<PostgresPorts['startKeys']['reserve']>[0];
const reserve = (parts: Partial<Reservation>) =>
  ports.startKeys.reserve({
    namespace: 'default',
    definition: 'order',
    sagaId: sagaId(),
    fingerprint: 'f',
    ...parts,
  });
const reused = (words: RegExp) => ({
  code: 'KEY_REUSED',
  message: expect.stringMatching(words) as string,
});

describe('start keys (I4)', () => {
  test.each<[string, Partial<Reservation>]>([
    ['idempotency key', { idempotencyKey: 'i-many' }],
    ['business key', { businessKey: 'b-many' }],
    ['both', { idempotencyKey: 'i-both', businessKey: 'b-both' }],
  ])('fifty reservations of one %s at once give one saga', async (_name, keys) => {
    const got = await Promise.all(Array.from({ length: 50 }, () => reserve(keys)));
    expect(new Set(got.map((each) => each.sagaId)).size).toBe(1);
    expect(got.filter(({ fresh }) => fresh)).toHaveLength(1);
  });

  test('fifty starts of one business key with idempotency keys of their own give one saga', async () => {
    const got = await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        reserve({ idempotencyKey: `own-${n}`, businessKey: 'shared' }),
      ),
    );
    expect(new Set(got.map((each) => each.sagaId)).size).toBe(1);
    // Each of the idempotency keys leads to it from now on.
    expect(await reserve({ idempotencyKey: 'own-49' })).toEqual({
      sagaId: got[0]?.sagaId,
      fresh: false,
    });
  });

  test('the same key for another request is refused, and says whose it is', async () => {
    const { sagaId: first } = await reserve({ idempotencyKey: 'i1', businessKey: 'b1' });
    await expect(reserve({ idempotencyKey: 'i1', fingerprint: 'g' })).rejects.toMatchObject(
      reused(new RegExp(`idempotency key "i1" belongs to saga ${first}`)),
    );
    await expect(
      reserve({ idempotencyKey: 'i2', businessKey: 'b1', fingerprint: 'g' }),
    ).rejects.toMatchObject(reused(new RegExp(`business key "b1" belongs to saga ${first}`)));
    // The refused request has left no key behind.
    expect(await reserve({ idempotencyKey: 'i2', fingerprint: 'h' })).toMatchObject({
      fresh: true,
    });
    // Two keys that lead to two sagas can't both be meant.
    await reserve({ businessKey: 'b2' });
    await expect(reserve({ idempotencyKey: 'i1', businessKey: 'b2' })).rejects.toMatchObject(
      reused(/belongs to saga/),
    );
  });

  test('keys are apart by namespace, definition and kind; no key is no reservation', async () => {
    const ids = [
      await reserve({ businessKey: 'x' }),
      await reserve({ idempotencyKey: 'x' }),
      await reserve({ businessKey: 'x', namespace: 'other' }),
      await reserve({ businessKey: 'x', definition: 'trip' }),
      await reserve({}),
    ];
    expect(ids.every(({ fresh }) => fresh)).toBe(true);
  });

  test('a key may be long or odd', async () => {
    for (const key of ['ü'.repeat(5_000), 'a\0b', "'; --"]) {
      const { sagaId: id } = await reserve({ idempotencyKey: key });
      expect(await reserve({ idempotencyKey: key })).toEqual({ sagaId: id, fresh: false });
    }
    expect(await reserve({ idempotencyKey: `${'ü'.repeat(5_000)}!` })).toMatchObject({
      fresh: true,
    });
  });
});

describe('dead letters', () => {
  const letter = (offset: bigint, parts: Partial<DeadLetter> = {}): DeadLetter => ({
    topic: 'sagax.inbox',
    partition: 3,
    offset,
    key: '1',
    headers: { ce_type: 'sagax.start.v1' },
    value: '{',
    code: 'MESSAGE_INVALID',
    reason: 'not JSON',
    at: T0,
    ...parts,
  });

  test('come with the batch that skipped them; newest first, by pages; redriven once', async () => {
    const w = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 60_000)));
    const letters = [letter(1n), letter(2n, { key: null, value: null, headers: {} }), letter(3n)];
    await ports.eventLog.append(w.batch({ deadLetters: letters, nextOffset: 4n }));
    const all = await ports.deadLetters.list({ limit: 10 });
    expect(all).toEqual(
      letters
        .toReversed()
        .map((each) => ({ ...each, id: expect.any(String) as string, redrivenAt: null })),
    );
    const [third, second, first] = all.map(({ id }) => id) as [string, string, string];
    expect(
      (await ports.deadLetters.list({ limit: 1, beforeId: third })).map(({ id }) => id),
    ).toEqual([second]);
    expect(await ports.deadLetters.get(second)).toEqual(all[1]);
    for (const id of ['0', 'x', '999999', '99999999999999999999']) {
      expect(await ports.deadLetters.get(id)).toBeNull();
      expect(await ports.deadLetters.markRedriven(id)).toBe(false);
    }
    expect(await ports.deadLetters.list({ limit: 1, beforeId: 'x' })).toEqual([]);

    const marks = await Promise.all(
      Array.from({ length: 10 }, () => ports.deadLetters.markRedriven(second)),
    );
    expect(marks.filter((done) => done)).toHaveLength(1);
    expect((await ports.deadLetters.list({ limit: 10 })).map(({ id }) => id)).toEqual([
      third,
      first,
    ]);
    const withDone = await ports.deadLetters.list({ limit: 10, includeRedriven: true });
    expect(withDone.map(({ redrivenAt }) => redrivenAt !== null)).toEqual([false, true, false]);
    expect(Math.abs((withDone[1]?.redrivenAt ?? 0) - ports.clock.now())).toBeLessThan(10_000);
  });
});
