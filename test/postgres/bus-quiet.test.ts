/** How much an idle process asks of its database, and how soon it looks after traffic; in virtual time. */
import type pg from 'pg';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { BusGroups } from '../../engine/postgres/bus-groups.ts';
import { BusLane } from '../../engine/postgres/bus-lane.ts';
import { SILENT_LOG } from '../../engine/postgres/bus-log.ts';
import { BusMembership } from '../../engine/postgres/bus-membership.ts';
import { BusPoller } from '../../engine/postgres/bus-poller.ts';
import { PostgresSubscription } from '../../engine/postgres/bus-subscription.ts';
import { BusTopics } from '../../engine/postgres/bus-topics.ts';
import { Database } from '../../engine/postgres/pool.ts';

/** A database that answers at once, and counts. */
class CountingDatabase extends Database {
  readonly asked: string[] = [];
  messages: object[] = [];

  constructor() {
    super({} as pg.Pool);
  }
  override read<R extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<R[]> {
    return Promise.resolve(this.#answer(query) as R[]);
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
    return name === 'bus-poll' ? this.messages.splice(0) : [];
  }
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
  const membership = new BusMembership(groups, 5_000, () => subscriptions, SILENT_LOG);
  subscriptions.push(
    new PostgresSubscription(
      'me',
      { group: 'g', topics: ['t'], onBatch: () => Promise.resolve() },
      {
        topics: new BusTopics(database),
        groups,
        log: SILENT_LOG,
        wakePoller: () => poller.wake(),
        membershipChanged: () => undefined,
        closed: () => undefined,
      },
    ),
  );
  membership.wake(true);
  await vi.advanceTimersByTimeAsync(5_000);
  expect(subscriptions[0]?.assigned()).toHaveLength(2);
  database.asked.length = 0;
  await vi.advanceTimersByTimeAsync(20_000);
  // Four a second: the engine's own shards, timers and clock add one.
  expect(database.asked.length).toBeLessThanOrEqual(80);
  // Silent is not dead: it reads, looks at its groups within a second, and renews well within each lease.
  const count = (name: string): number => database.asked.filter((asked) => asked === name).length;
  expect(count('bus-poll')).toBeGreaterThanOrEqual(38);
  expect(count('bus-view')).toBeGreaterThanOrEqual(25);
  expect(count('bus-renew')).toBeGreaterThanOrEqual(9);
  await Promise.all([poller.close(), membership.close()]);
});

it('looks every few ms for a second after traffic, then slows down', async () => {
  const database = new CountingDatabase();
  const lane = new BusLane({
    topic: 't',
    partition: 0,
    partitionId: 1,
    epoch: '1',
    committed: null,
    maxBatch: 10,
    onBatch: () => Promise.resolve(),
    wants: () => undefined,
    batchFailed: () => undefined,
  });
  lane.open(null);
  const poller = new BusPoller(
    database,
    () => [lane],
    (error) => expect.unreachable(String(error)),
  );
  database.messages = [{ lane: 0, offset: '0', key: null, headers: '{}', value: 'x' }];
  poller.wake();
  await vi.advanceTimersByTimeAsync(1_000);
  expect(lane.next).toBe(1n);
  expect(database.asked.length).toBeGreaterThan(150);
  await vi.advanceTimersByTimeAsync(5_000);
  database.asked.length = 0;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(database.asked.length).toBeLessThanOrEqual(20);
  await poller.close();
});
