/** Leases over several databases of which one hangs: the others are renewed in time, and what was lost is told late. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { PostgresPorts } from '../../engine/postgres/index.ts';
import { LogPart } from '../../engine/postgres/log-part.ts';
import { Parts, spreadShardLeases } from '../../engine/postgres/spread-log.ts';
import type { ShardLeases } from '../../engine/ports.ts';

const TTL_MS = 12_000;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Two databases with two shards each; `renew` of the second is the test's. */
async function leases(renew: ShardLeases['renew']) {
  const asked: number[][] = [];
  const troubles: string[] = [];
  const portsOf = (index: number): PostgresPorts => {
    const shardLeases: Partial<ShardLeases> = {
      renew: (owner, held, ttlMs) => {
        if (index === 1) return renew(owner, held, ttlMs);
        asked.push(held.map(({ shard }) => shard));
        return Promise.resolve([]);
      },
    };
    return { shardLeases } as PostgresPorts;
  };
  const parts = [0, 1].map(
    (index) =>
      new LogPart({
        place: { index, count: 2 },
        url: `postgres://user:secret@db-${index}.internal/log`,
        open: () => Promise.resolve(portsOf(index)),
        onTrouble: () => undefined,
      }),
  );
  for (const part of parts) await part.start();
  const spread = spreadShardLeases(new Parts(parts, 4), (what) => troubles.push(what));
  return { spread, asked, troubles };
}

const held = (epoch: number) => [0, 1, 2, 3].map((shard) => ({ shard, epoch }));

test('a database that hangs holds up no renewal in the other, and is not asked twice at once', async () => {
  const calls: ((lost: number[]) => void)[] = [];
  const { spread, asked, troubles } = await leases(
    () => new Promise((resolve) => calls.push(resolve)),
  );
  for (let n = 0; n < 3; n++) {
    const renewed = spread.renew('me', held(1), TTL_MS);
    await vi.advanceTimersByTimeAsync(TTL_MS / 4);
    expect(await renewed).toEqual([]);
  }
  expect(asked).toEqual([
    [0, 2],
    [0, 2],
    [0, 2],
  ]);
  expect(calls).toHaveLength(1);
  expect(troubles).toHaveLength(3);
  expect(troubles[0]).toContain('log database 2 of 2 (db-1.internal:5432/log)');
  expect(troubles[0]).not.toContain('secret');
});

test('a lease that was lost is told by the next call, but not to a newer epoch of the shard', async () => {
  const calls: ((lost: number[]) => void)[] = [];
  const { spread } = await leases(() => new Promise((resolve) => calls.push(resolve)));
  const late = spread.renew('me', held(1), TTL_MS);
  await vi.advanceTimersByTimeAsync(TTL_MS / 4);
  expect(await late).toEqual([]);
  calls[0]?.([1, 3]);
  await vi.advanceTimersByTimeAsync(1);
  const next = spread.renew('me', [...held(1).slice(0, 3), { shard: 3, epoch: 2 }], TTL_MS);
  calls[1]?.([]);
  expect(await next).toEqual([1]);
});

test('without any answer the renewal fails', async () => {
  const { spread } = await leases(() => new Promise(() => undefined));
  const renewed = spread.renew('me', [{ shard: 1, epoch: 1 }], TTL_MS);
  await Promise.all([
    expect(renewed).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' }),
    vi.advanceTimersByTimeAsync(TTL_MS / 4),
  ]);
});
