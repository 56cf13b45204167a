/** How much an idle process asks of its database, and how soon it looks after traffic; in virtual time. */
import type pg from 'pg';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { BusBatch, ReceivedMessage } from '../../engine/ports.ts';
import { BusGroups } from '../../engine/postgres/bus-groups.ts';
import { BusLane } from '../../engine/postgres/bus-lane.ts';
import { SILENT_LOG } from '../../engine/postgres/bus-log.ts';
import { BusMembership } from '../../engine/postgres/bus-membership.ts';
import { BusPoller } from '../../engine/postgres/bus-poller.ts';
import { PostgresSubscription } from '../../engine/postgres/bus-subscription.ts';
import { BusTopics } from '../../engine/postgres/bus-topics.ts';
import { Database } from '../../engine/postgres/pool.ts';

interface Row {
  lane: string;
  offset: string;
  key: string | null;
  headers: string;
  value: string;
}

/** A database that answers at once, a long poll as soon as there is something, and counts. */
class CountingDatabase extends Database {
  readonly asked: string[] = [];
  /** How often the server looked for messages. */
  looks = 0;
  /** Questions that the server is at, and the most that it has been at. */
  underWay = 0;
  mostUnderWay = 0;
  messages: Row[] = [];
  messagesOf: (ids: readonly number[]) => readonly Row[] = () => this.messages;

  constructor() {
    super({} as pg.Pool);
  }
  override async read<R extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<R[]> {
    if (query.name !== 'bus-read') return this.#answer(query) as R[];
    const [ids, froms, , , first_ms, pause_ms, looks] = query.values as [
      number[],
      string[],
      unknown,
      unknown,
      number,
      number,
      number,
    ];
    this.asked.push('bus-read');
    this.underWay += 1;
    this.mostUnderWay = Math.max(this.mostUnderWay, this.underWay);
    if (first_ms > 0) await pgSleep(first_ms);
    for (let look = 1; ; look++) {
      this.looks++;
      const found = this.messagesOf(ids).filter(
        ({ lane, offset }) => BigInt(offset) >= BigInt(froms[Number(lane) - 1] ?? 0),
      );
      if (found.length > 0 || look === looks) {
        this.underWay -= 1;
        return found as object[] as R[];
      }
      await pgSleep(pause_ms);
    }
  }
  override write<R extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<pg.QueryResult<R>> {
    return Promise.resolve({ rows: this.#answer(query) } as unknown as pg.QueryResult<R>);
  }
  #answer({ name, values }: pg.QueryConfig): unknown[] {
    this.asked.push(name ?? '');
    if (name === 'bus-topic-ids') return [{ id: 1 }, { id: 2 }];
    if (name === 'bus-view') return [{ g: 'g', members: ['me'], free: true }];
    if (name === 'bus-take') {
      const [, , ids] = values as [string, string, number[]];
      return ids.map((id) => ({ partition_id: id, epoch: '1', committed: null }));
    }
    if (name === 'bus-renew') return ['g/1/1', 'g/2/1'].map((held) => ({ held }));
    return [];
  }
}

/** As the server does: a ms more than the whole ones in it. */
function pgSleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.floor(ms) + 1));
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

it('asks at most four times a second when nothing happens, leases included', async () => {
  const database = new CountingDatabase();
  const groups = new BusGroups(database, 5_000);
  const subscriptions: PostgresSubscription[] = [];
  const poller = new BusPoller(
    database,
    () => subscriptions.flatMap((subscription) => subscription.lanes()),
    (error) => expect.unreachable(String(error)),
  );
  const membership = membershipOf(groups, subscriptions);
  subscriptions.push(memberOf('me', database, groups, () => poller.wake()));
  membership.wake();
  await vi.advanceTimersByTimeAsync(5_000);
  expect(subscriptions[0]?.assigned()).toHaveLength(2);
  database.asked.length = 0;
  await vi.advanceTimersByTimeAsync(20_000);
  // Four a second: the engine's own shards, timers and clock add one.
  expect(database.asked.length).toBeLessThanOrEqual(80);
  // Silent is not dead: it reads, looks at its groups within a second, and renews well within each lease.
  const count = (name: string): number => database.asked.filter((asked) => asked === name).length;
  expect(count('bus-read')).toBeGreaterThanOrEqual(25);
  expect(count('bus-view')).toBeGreaterThanOrEqual(25);
  expect(count('bus-renew')).toBeGreaterThanOrEqual(9);
  await Promise.all([close(poller), membership.close()]);
});

it('makes a member that joins during a renewal, or whose topic comes later, known at once', async () => {
  const database = new CountingDatabase();
  const groups = new BusGroups(database, 5_000);
  const renewed: (readonly string[])[] = [];
  vi.spyOn(groups, 'renew').mockImplementation(async (members) => {
    renewed.push(members.map(({ member }) => member));
    await pgSleep(100);
    return new Set();
  });
  const subscriptions = [memberOf('me', database, groups)];
  const membership = membershipOf(groups, subscriptions);
  membership.wake();
  await vi.advanceTimersByTimeAsync(50);
  expect(renewed.splice(0)).toEqual([['me']]);
  subscriptions.push(memberOf('new', database, groups));
  membership.wake();
  await vi.advanceTimersByTimeAsync(60);
  expect(renewed.splice(0)).toEqual([['me', 'new']]);

  const late = memberOf('late', database, groups);
  vi.spyOn(late, 'register').mockResolvedValueOnce(false);
  subscriptions.push(late);
  await vi.advanceTimersByTimeAsync(1_700);
  expect(renewed.splice(0)).toEqual([['me', 'new', 'late']]);
  // Then all of them, each third of a lease.
  await vi.advanceTimersByTimeAsync(1_500);
  expect(renewed).toEqual([]);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(renewed).toHaveLength(1);
  await membership.close();
});

it.each([144, 2_000])(
  'asks no more with %i partitions, and finds what comes for the last one',
  async (count) => {
    const database = new CountingDatabase();
    const lanes = Array.from({ length: count }, (_, index) =>
      laneOf(index, () => Promise.resolve()),
    );
    const poller = new BusPoller(
      database,
      () => lanes,
      (error) => expect.unreachable(String(error)),
    );
    for (const lane of lanes) lane.open(null);
    poller.wake();
    await vi.advanceTimersByTimeAsync(5_000);
    database.asked.length = 0;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(database.asked.length).toBeLessThanOrEqual(20);
    database.messagesOf = (ids) => {
      const at = ids.indexOf(count - 1);
      return at < 0 ? [] : [{ ...message(0), lane: String(at + 1) }];
    };
    await vi.advanceTimersByTimeAsync(2_000);
    expect(lanes.at(-1)?.next).toBe(1n);
    await close(poller);
  },
);

function membershipOf(groups: BusGroups, subscriptions: PostgresSubscription[]): BusMembership {
  return new BusMembership(
    groups,
    5_000,
    () => subscriptions,
    { address: () => Promise.resolve(null), isMember: false },
    SILENT_LOG,
  );
}

function memberOf(
  member: string,
  database: Database,
  groups: BusGroups,
  wakePoller: () => void = () => undefined,
): PostgresSubscription {
  return new PostgresSubscription(
    member,
    { group: 'g', topics: ['t'], onBatch: () => Promise.resolve() },
    {
      topics: new BusTopics(database),
      groups,
      log: SILENT_LOG,
      wakePoller,
      membershipChanged: () => undefined,
      closed: () => undefined,
    },
  );
}

function laneOf(
  partitionId: number,
  onBatch: (batch: BusBatch) => Promise<void>,
  hasRoom: () => void = () => undefined,
): BusLane {
  return new BusLane({
    topic: 't',
    partition: partitionId,
    partitionId,
    epoch: '1',
    committed: null,
    maxBatch: 10,
    onBatch,
    hasRoom,
    batchFailed: () => undefined,
  });
}

function laneAndPoller(database: CountingDatabase, onBatch: (batch: BusBatch) => Promise<void>) {
  const lane = laneOf(1, onBatch, () => poller.wake());
  const poller = new BusPoller(
    database,
    () => [lane],
    (error) => expect.unreachable(String(error)),
  );
  return { lane, poller };
}

const received: ReceivedMessage = {
  topic: 't',
  partition: 0,
  offset: 0n,
  key: null,
  headers: {},
  value: 'x',
};

async function close(poller: BusPoller): Promise<void> {
  const closing = poller.close();
  await vi.advanceTimersByTimeAsync(1_000);
  await closing;
}

function message(offset: number): Row {
  return { lane: '1', offset: String(offset), key: null, headers: '{}', value: 'x' };
}

it('has the server look every few ms for a second after traffic, then slows down', async () => {
  const database = new CountingDatabase();
  const { lane, poller } = laneAndPoller(database, () => Promise.resolve());
  lane.open(null);
  database.messages = [message(0)];
  poller.wake();
  await vi.advanceTimersByTimeAsync(1_000);
  expect(lane.next).toBe(1n);
  expect(database.looks).toBeGreaterThan(150);
  // Each question is good for a while of looking.
  expect(database.asked.length).toBeLessThan(40);
  await vi.advanceTimersByTimeAsync(5_000);
  database.looks = 0;
  database.asked.length = 0;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(database.asked.length).toBeLessThanOrEqual(21);
  expect(database.looks).toBeLessThanOrEqual(500);
  // Whoever comes first after a long silence doesn't wait for half a second.
  database.messages.push(message(1));
  await vi.advanceTimersByTimeAsync(21);
  expect(lane.next).toBe(2n);
  await close(poller);
});

it('looks after a lane that opens in the silence as after the others, with few questions at once', async () => {
  const database = new CountingDatabase();
  const lanes = Array.from({ length: 9 }, (_, id) =>
    laneOf(
      id,
      () => Promise.resolve(),
      () => poller.wake(),
    ),
  );
  const poller = new BusPoller(
    database,
    () => lanes,
    (error) => expect.unreachable(String(error)),
  );
  lanes[0]?.open(null);
  await vi.advanceTimersByTimeAsync(5_000);
  lanes[1]?.open(null);
  // Behind the one look that its opening brings.
  await vi.advanceTimersByTimeAsync(10);
  database.messagesOf = (ids) =>
    ids.includes(1) ? [{ ...message(0), lane: String(ids.indexOf(1) + 1) }] : [];
  await vi.advanceTimersByTimeAsync(25);
  expect(lanes[1]?.next).toBe(1n);
  await vi.advanceTimersByTimeAsync(5_000);
  database.mostUnderWay = 0;
  for (const lane of lanes.slice(2)) {
    lane.open(null);
    await vi.advanceTimersByTimeAsync(20);
  }
  // What is asked, what nobody waits for any more, and a look beside.
  expect(database.mostUnderWay).toBeLessThanOrEqual(3);
  database.messagesOf = (ids) =>
    ids.includes(8) ? [{ ...message(0), lane: String(ids.indexOf(8) + 1) }] : [];
  await vi.advanceTimersByTimeAsync(800);
  expect(lanes[8]?.next).toBe(1n);
  await close(poller);
});

it('looks each ms while messages are few, and waits for company once there are many', async () => {
  const database = new CountingDatabase();
  const { lane, poller } = laneAndPoller(database, () => Promise.resolve());
  lane.open(null);
  let offset = 0;
  const latenessOf = async (together: number): Promise<number> => {
    const from = performance.now();
    for (let n = 0; n < together; n++) database.messages.push(message(offset++));
    while (lane.next < BigInt(offset)) await vi.advanceTimersByTimeAsync(1);
    return performance.now() - from;
  };
  database.messages = [message(offset++)];
  poller.wake();
  await vi.advanceTimersByTimeAsync(3);
  expect(await latenessOf(1)).toBeLessThanOrEqual(1);
  for (let n = 0; n < 10; n++) await latenessOf(4);
  await vi.advanceTimersByTimeAsync(1);
  expect(await latenessOf(4)).toBeGreaterThan(1);
  for (let n = 0; n < 40; n++) await latenessOf(1);
  expect(await latenessOf(1)).toBeLessThanOrEqual(1);
  await close(poller);
});

it('looks once a ring while others ring, and each ms again as soon as one of them does not', async () => {
  const database = new CountingDatabase();
  const { lane, poller } = laneAndPoller(database, () => Promise.resolve());
  lane.open(null);
  let offset = 0;
  const say = (rings: boolean): void => {
    database.messages.push(message(offset++));
    if (rings) poller.rung();
  };
  poller.wake();
  await vi.advanceTimersByTimeAsync(5_000);
  // Out of the silence: at once, whatever the server is at.
  say(true);
  await vi.advanceTimersByTimeAsync(0);
  expect(lane.next).toBe(1n);
  await vi.advanceTimersByTimeAsync(21);
  database.looks = 0;
  for (let n = 0; n < 100; n++) {
    say(true);
    await vi.advanceTimersByTimeAsync(0);
    expect(lane.next).toBe(BigInt(offset));
    await vi.advanceTimersByTimeAsync(10);
  }
  expect(database.looks).toBeLessThanOrEqual(105);
  // One that can't ring is found by a look that nobody asked for; from then on each ms.
  say(false);
  await vi.advanceTimersByTimeAsync(20);
  expect(lane.next).toBe(BigInt(offset));
  for (let n = 0; n < 10; n++) {
    say(false);
    await vi.advanceTimersByTimeAsync(2);
    expect(lane.next).toBe(BigInt(offset));
    await vi.advanceTimersByTimeAsync(8);
  }
  // When nobody rings any more it becomes as quiet as without.
  await vi.advanceTimersByTimeAsync(5_000);
  database.asked.length = 0;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(database.asked.length).toBeLessThanOrEqual(21);
  await close(poller);
});

it('is not driven by rings when so many come that they do better together', async () => {
  const database = new CountingDatabase();
  const { lane, poller } = laneAndPoller(database, () => Promise.resolve());
  lane.open(null);
  let offset = 0;
  poller.wake();
  for (let ms = 0; ms < 500; ms++) {
    database.messages.push(message(offset++));
    poller.rung();
    await vi.advanceTimersByTimeAsync(1);
  }
  database.looks = 0;
  for (let ms = 0; ms < 500; ms++) {
    database.messages.push(message(offset++));
    poller.rung();
    await vi.advanceTimersByTimeAsync(1);
  }
  expect(database.looks).toBeLessThanOrEqual(130);
  expect(Number(lane.next)).toBeGreaterThan(offset - 30);
  await close(poller);
});

it('reads ahead while a batch runs, and reads anew what the batch set back', async () => {
  const database = new CountingDatabase();
  const batches: bigint[][] = [];
  let finish: (answer: { resumeAt: bigint } | undefined) => void = () => undefined;
  const { lane, poller } = laneAndPoller(database, async ({ messages }) => {
    batches.push(messages.map(({ offset }) => offset));
    return new Promise((resolve) => (finish = resolve as typeof finish));
  });
  lane.open(null);
  database.messages = [message(0)];
  poller.wake();
  await vi.advanceTimersByTimeAsync(10);
  database.messages.push(message(1), message(2));
  await vi.advanceTimersByTimeAsync(10);
  expect(lane.next).toBe(3n);
  expect(lane.room).toBe(8);
  expect(batches).toEqual([[0n]]);
  finish(undefined);
  await vi.advanceTimersByTimeAsync(10);
  expect(batches).toEqual([[0n], [1n, 2n]]);
  database.messages.push(message(3));
  await vi.advanceTimersByTimeAsync(10);
  expect(lane.next).toBe(4n);
  finish({ resumeAt: 2n });
  await vi.advanceTimersByTimeAsync(10);
  expect(batches.slice(2)).toEqual([[2n, 3n]]);
  // What was asked for before the lane was set back does not follow on it; what is known comes once.
  lane.deliver(5n, [{ ...received, offset: 5n }]);
  lane.deliver(2n, [{ ...received, offset: 3n }]);
  expect(lane.next).toBe(4n);
  finish(undefined);
  await vi.advanceTimersByTimeAsync(10);
  expect(batches).toHaveLength(3);
  await close(poller);
});
