/** Messages that a reader is handed: taken in order as if they had been read, and looked for when one is missing. */
import type pg from 'pg';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Patience } from '../../engine/core/patience.ts';
import type { BusBatch } from '../../engine/ports.ts';
import { BusLane } from '../../engine/postgres/bus-lane.ts';
import type { Committed } from '../../engine/postgres/bus-offsets.ts';
import { BusPoller } from '../../engine/postgres/bus-poller.ts';
import { Database } from '../../engine/postgres/pool.ts';

/** Each look takes a ms and finds what is on the bus. */
class Bus extends Database {
  readonly stored: Committed[] = [];
  looks = 0;

  constructor() {
    super({} as pg.Pool);
  }
  override async read<R extends pg.QueryResultRow>({ values }: pg.QueryConfig): Promise<R[]> {
    const [ids, froms, counts, , , pauseMs, looks] = values as [
      number[],
      string[],
      number[],
      unknown,
      unknown,
      number,
      number,
    ];
    for (let look = 1; ; look++) {
      this.looks += 1;
      await new Promise((resolve) => setTimeout(resolve, 1 + pauseMs));
      const found = ids.flatMap((id, index) =>
        this.stored
          .filter((one) => one.id === id && one.offset >= BigInt(froms[index] ?? 0))
          .slice(0, counts[index])
          .map(({ offset, key, value }) => ({
            lane: `${index + 1}`,
            offset: `${offset}`,
            key,
            headers: '{}',
            value,
          })),
      );
      if (found.length > 0 || look === looks) return found as object[] as R[];
    }
  }
}

const said = (offset: number, id = 1): Committed => ({
  id,
  offset: BigInt(offset),
  key: 'k',
  headers: {},
  value: `${offset}`,
});

let bus: Bus;
let poller: BusPoller;
let lane: BusLane;
let batches: (string | null)[][];
let hold: Promise<void> | null;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  bus = new Bus();
  batches = [];
  hold = null;
  lane = laneOf(1);
  poller = new BusPoller(
    bus,
    () => [lane],
    (error) => expect.unreachable(String(error)),
  );
  lane.open(null);
});
afterEach(async () => {
  const closing = poller.close();
  await vi.advanceTimersByTimeAsync(2_000);
  await closing;
  vi.useRealTimers();
});

function laneOf(partitionId: number): BusLane {
  return new BusLane({
    topic: 't',
    partition: 7,
    partitionId,
    epoch: '1',
    committed: null,
    maxBatch: 3,
    onBatch: async ({ messages }: BusBatch) => {
      batches.push(messages.map(({ value }) => value));
      await hold;
    },
    hasRoom: () => poller?.wake(),
    batchFailed: () => undefined,
  });
}

/** Until what the server was asked in the silence before is done; since then it is asked each 20 ms for one look. */
const quiet = (): Promise<unknown> => vi.advanceTimersByTimeAsync(700);

const looksIn = async (ms: number, work: () => void): Promise<number> => {
  const before = bus.looks;
  work();
  await vi.advanceTimersByTimeAsync(ms);
  return bus.looks - before;
};

it.each(['published', 'told'] as const)(
  'those that follow are taken at once, without being read (%s)',
  async (how) => {
    await vi.advanceTimersByTimeAsync(5);
    poller[how]([said(0), said(1)]);
    expect(batches).toEqual([['0']]);
    await vi.advanceTimersByTimeAsync(0);
    expect(batches).toEqual([['0'], ['1']]);
    expect(lane.next).toBe(2n);
  },
);

it('while others tell, only silence is looked into', async () => {
  poller.told([said(0)]);
  await quiet();
  expect(await looksIn(100, () => poller.told([said(1)]))).toBeLessThanOrEqual(6);
});

it('what others commit is looked for as before while only this process tells itself', async () => {
  poller.published([said(0)]);
  await vi.advanceTimersByTimeAsync(10);
  bus.stored.push(said(0), said(1));
  await vi.advanceTimersByTimeAsync(7);
  expect(batches.flat()).toEqual(['0', '1']);
});

it('out of a long silence too', async () => {
  await vi.advanceTimersByTimeAsync(10_000);
  poller.told([said(0)]);
  expect(batches).toEqual([['0']]);
});

it('repeats are dropped, without a look', async () => {
  poller.told([said(0), said(1)]);
  await quiet();
  const looks = await looksIn(15, () => poller.told([said(0), said(1), said(0)]));
  expect(batches.flat()).toEqual(['0', '1']);
  expect(looks).toBeLessThanOrEqual(1);
});

it('behind a gap they are looked for at once, and come in order', async () => {
  poller.told([said(0)]);
  await vi.advanceTimersByTimeAsync(100);
  bus.stored.push(said(0), said(1), said(2));
  poller.told([said(2)]);
  await vi.advanceTimersByTimeAsync(2);
  expect(batches.flat()).toEqual(['0', '1', '2']);
});

it('for a lane without room they are found when it has room again', async () => {
  const held = Promise.withResolvers<void>();
  hold = held.promise;
  const all = Array.from({ length: 9 }, (_, n) => said(n));
  bus.stored.push(...all);
  poller.told(all);
  await vi.advanceTimersByTimeAsync(200);
  // One that runs, and a batch that waits.
  expect(batches).toEqual([['0']]);
  expect(lane.next).toBe(4n);
  held.resolve();
  hold = null;
  await vi.advanceTimersByTimeAsync(50);
  expect(batches.flat()).toEqual(all.map(({ value }) => value));
});

it('those of a lane that is closed, not open yet, or set back are not taken', async () => {
  const other = laneOf(2);
  expect(other.take(said(0, 2))).toBe(false);
  other.open(5n);
  expect(other.take(said(4, 2))).toBe(true);
  expect(other.take(said(6, 2))).toBe(false);
  other.close();
  expect(other.take(said(5, 2))).toBe(false);
  expect(batches).toEqual([]);
});

it('what nobody told is found by looking into the silence', async () => {
  poller.told([said(0)]);
  await vi.advanceTimersByTimeAsync(100);
  bus.stored.push(said(0), said(1));
  await vi.advanceTimersByTimeAsync(25);
  expect(batches.flat()).toEqual(['0', '1']);
});

it('company pays later for who is told than for who looks, and does pay', () => {
  const patience = new Patience();
  let now = 0;
  const rate = (perSecond: number): void => {
    for (const until = now + 2_000; now < until;) patience.found(1, (now += 1000 / perSecond));
  };
  rate(420);
  expect([patience.pays(now), patience.pays(now, true)]).toEqual([true, false]);
  rate(600);
  expect(patience.pays(now, true)).toBe(true);
});
