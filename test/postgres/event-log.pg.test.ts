/** The event log: a batch is written whole or not at all, and comes back as it was (I1, I4, I9). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import type { LoggedEvent } from '../../engine/core/events.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import type { ShardBatch } from '../../engine/ports.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { noted, requested, sagaId, summary, T0, taken, Writer } from './fixtures.ts';

let db: TestDatabase;
let ports: PostgresPorts;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 8, migrate: false });
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

async function writer(shard: number): Promise<Writer> {
  return new Writer(await taken(ports.shardLeases.acquire(shard, 'me', 60_000, { steal: true })));
}
async function count(table: string): Promise<number> {
  const { rows } = await db.pool.query<{ n: number }>(
    `SELECT count(*)::int AS n FROM sagax.${table}`,
  );
  return rows[0]?.n ?? -1;
}
async function position(shard: number) {
  const all = await ports.reader.shards();
  return all.find((each) => each.shard === shard);
}

describe('append', () => {
  test('writes all of a batch, and load gives it back as it was', async () => {
    const w = await writer(0);
    const [a, b] = [sagaId(), sagaId()];
    const events = [w.event(a, requested(`${a}.1`)), w.event(b, noted(1)), w.event(a, noted(2))];
    const snapshot = {
      sagaId: b,
      streamVersion: 1,
      definitionHash: 'd1',
      stateHash: 's1',
      state: { value: 'paying', context: { n: 1.5, list: [1, 'ü', null] } },
    };
    await ports.eventLog.append(
      w.batch({
        events,
        nextOffset: 7n,
        publishedSeq: 1,
        wakeups: [{ sagaId: a, dueAt: T0 + 0.25 }],
        summaries: [summary(a, { attributes: { vip: true, n: 3 } }), summary(b)],
        snapshots: [snapshot],
        deadLetters: [],
      }),
    );
    const streams = await ports.eventLog.load([a, b, sagaId()]);
    expect([...streams.keys()].sort()).toEqual([a, b].sort());
    expect(streams.get(a)).toEqual({ snapshot: null, events: [events[0], events[2]] });
    expect(streams.get(b)).toEqual({ snapshot, events: [] });
    const whole = await ports.eventLog.load([b], { ignoreSnapshots: true });
    expect(whole.get(b)).toEqual({ snapshot: null, events: [events[1]] });
    expect(await position(0)).toMatchObject({
      nextOffset: '7',
      nextSeq: 4,
      publishedSeq: 1,
      owner: 'me',
    });
    // Rounded up: a timer is never early (I11).
    expect(await ports.eventLog.dueWakeups(0, T0, 10)).toEqual([]);
    expect(await ports.eventLog.dueWakeups(0, T0 + 1, 10)).toEqual([{ sagaId: a, dueAt: T0 + 1 }]);
  });

  test('only the events behind a snapshot are loaded; a newer snapshot takes the place of an older', async () => {
    const w = await writer(0);
    const a = sagaId();
    const snapshot = (streamVersion: number) => ({
      sagaId: a,
      streamVersion,
      definitionHash: 'd',
      stateHash: `s${streamVersion}`,
      state: { at: streamVersion },
    });
    const events = [1, 2, 3, 4].map((n) => w.event(a, noted(n)));
    await ports.eventLog.append(w.batch({ events: events.slice(0, 2), snapshots: [snapshot(1)] }));
    await ports.eventLog.append(w.batch({ events: events.slice(2), snapshots: [snapshot(3)] }));
    expect((await ports.eventLog.load([a])).get(a)).toEqual({
      snapshot: snapshot(3),
      events: [events[3]],
    });
  });

  test('moves the input offset with the events, never back, and alone when there are none', async () => {
    const w = await writer(1);
    await ports.eventLog.append(w.batch({ nextOffset: 5n, publishedSeq: 3 }));
    expect(await position(1)).toMatchObject({ nextOffset: '5', nextSeq: 1, publishedSeq: 3 });
    await ports.eventLog.append(w.batch({ nextOffset: 4n, publishedSeq: 2 }));
    expect(await position(1)).toMatchObject({ nextOffset: '5', publishedSeq: 3 });
    await ports.eventLog.append(w.batch({ nextOffset: 2n ** 62n }));
    const lease = await taken(ports.shardLeases.acquire(1, 'next', 60_000, { steal: true }));
    expect(lease).toMatchObject({
      nextOffset: 2n ** 62n,
      publishedSeq: 3,
      nextSeq: 1,
      owner: 'next',
    });
  });

  test('sets, moves and clears wake-ups; gives the due ones earliest first', async () => {
    const w = await writer(2);
    const [a, b, c] = [sagaId(), sagaId(), sagaId()];
    const set = (wakeups: ShardBatch['wakeups']) => ports.eventLog.append(w.batch({ wakeups }));
    await set([
      { sagaId: a, dueAt: 30 },
      { sagaId: b, dueAt: 20 },
      { sagaId: c, dueAt: 10 },
    ]);
    await set([
      { sagaId: a, dueAt: 5 },
      { sagaId: c, dueAt: null },
      { sagaId: sagaId(), dueAt: null },
    ]);
    expect(await ports.eventLog.dueWakeups(2, 100, 10)).toEqual([
      { sagaId: a, dueAt: 5 },
      { sagaId: b, dueAt: 20 },
    ]);
    expect(await ports.eventLog.dueWakeups(2, 100, 1)).toEqual([{ sagaId: a, dueAt: 5 }]);
    expect(await ports.eventLog.dueWakeups(3, 100, 10)).toEqual([]);
  });

  test('the outbox has commands and domain events behind a position, in order, over partitions', async () => {
    const w = await writer(3);
    const [a, b] = [sagaId(), sagaId(Date.now())];
    const events: LoggedEvent[] = [];
    for (let n = 1; n <= 4; n++) {
      events.push(w.event(n % 2 === 0 ? a : b, requested(`${a}.${n}`)), w.event(a, noted(n)));
    }
    await ports.eventLog.append(w.batch({ events }));
    const commands = events.filter(({ event }) => event.type === 'StepRequested');
    expect(await ports.eventLog.readOutbox(3, 0, 100)).toEqual(commands);
    expect(await ports.eventLog.readOutbox(3, 3, 2)).toEqual(commands.slice(2, 4));
    expect(await ports.eventLog.readOutbox(4, 0, 100)).toEqual([]);
  });

  test('keeps what jsonb refuses: NUL and half surrogates, in values, keys and summaries', async () => {
    const w = await writer(4);
    const a = sagaId();
    const odd = { 'k\0': ['\0', '\ud83d', 'ok 😀', '\\u0000'], $: null };
    const escapeLike = { '$sagax.json': 'not JSON' };
    const events = [
      w.event(a, { type: 'SignalReceived', signalId: 's', name: 'n', payload: odd }),
      w.event(a, { type: 'SignalReceived', signalId: 's\0', name: 'n', payload: escapeLike }),
    ];
    const snapshot = { sagaId: a, streamVersion: 1, definitionHash: 'd', stateHash: 's' };
    await ports.eventLog.append(
      w.batch({
        events,
        snapshots: [{ ...snapshot, state: escapeLike }],
        summaries: [
          summary(a, { failureMessage: 'cut \ud83d', output: odd, attributes: { x: 'a\0b' } }),
        ],
        deadLetters: [
          {
            topic: 'inbox',
            partition: 1,
            offset: 9n,
            key: 'k\0',
            headers: { h: '\0' },
            value: '{"a":"\0"}',
            code: 'MESSAGE_INVALID',
            reason: 'bad \0',
            at: T0,
          },
        ],
      }),
    );
    const stream = (await ports.eventLog.load([a])).get(a);
    expect(stream).toEqual({ snapshot: { ...snapshot, state: escapeLike }, events: [events[1]] });
    expect((await ports.reader.history(a, 0, 10)).map(({ event }) => event)).toEqual(
      events.map(({ event }) => event),
    );
    expect(await ports.reader.get('default', a)).toMatchObject({
      failureMessage: 'cut \ufffd',
      output: odd,
      attributes: { x: 'a\ufffdb' },
    });
    const [letter] = await ports.deadLetters.list({ limit: 1 });
    expect(letter).toMatchObject({
      offset: 9n,
      key: 'k\0',
      headers: { h: '\0' },
      value: '{"a":"\0"}',
      redrivenAt: null,
    });
  });

  test('takes 2,000 events with 2 kB, and 200 of 64 kB, in one statement each', async () => {
    const w = await writer(5);
    for (const [n, bytes] of [
      [2_000, 2_000],
      [200, 64_000],
    ] as const) {
      const ids = Array.from({ length: 100 }, () => sagaId());
      const payload = Array.from(
        { length: bytes / 50 },
        (_, index) => `"quoted" ${'x'.repeat(30)} ${index}`,
      );
      const events = Array.from({ length: n }, (_, index) =>
        w.event(ids[index % 100] ?? '', {
          type: 'SignalReceived',
          signalId: `${index}`,
          name: 'n',
          payload,
        }),
      );
      await ports.eventLog.append(w.batch({ events }));
      const streams = await ports.eventLog.load(ids);
      expect([...streams.values()].flatMap((stream) => stream.events)).toHaveLength(n);
      expect(streams.get(ids[7] ?? '')?.events).toEqual(
        events.filter(({ sagaId: id }) => id === ids[7]),
      );
    }
  });
});

describe('a batch out of order is refused whole', () => {
  async function refused(batch: ShardBatch, words: RegExp): Promise<void> {
    const before = [await count('events'), await count('sagas'), await count('wakeups')];
    const error = await ports.eventLog.append(batch).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(SagaxError);
    expect(error).toMatchObject({
      code: 'INTERNAL',
      message: expect.stringMatching(words) as string,
    });
    expect([await count('events'), await count('sagas'), await count('wakeups')]).toEqual(before);
  }

  test('I1: the first shard_seq must be the next one, and the rest follow it', async () => {
    const w = await writer(6);
    const a = sagaId();
    const extras = { summaries: [summary(a)], wakeups: [{ sagaId: a, dueAt: 1 }], nextOffset: 99n };
    w.nextSeq = 2;
    await refused(
      w.batch({ events: [w.event(a, noted(1))], ...extras }),
      /begins at shard_seq 2, the shard goes on at 1/,
    );
    w.nextSeq = 1;
    w.versions.clear();
    const first = w.event(a, noted(1));
    w.nextSeq = 3;
    await refused(
      w.batch({ events: [first, w.event(a, noted(2))], ...extras }),
      /shard_seq 3, not 2/,
    );
    expect(await position(6)).toMatchObject({ nextSeq: 1, nextOffset: '0' });
  });

  test('I1: no gap and no repeat in a stream', async () => {
    const w = await writer(6);
    const a = sagaId();
    await ports.eventLog.append(w.batch({ events: [w.event(a, noted(1))] }));
    const gap = { ...w.event(a, noted(2)), streamVersion: 3 };
    await refused(
      w.batch({ events: [gap], summaries: [summary(a)] }),
      /gap in its stream versions/,
    );
    await refused(w.batch({ events: [{ ...gap, streamVersion: 1 }] }), /out of order/);
    await refused(
      w.batch({ events: [{ ...gap, streamVersion: 0 }] }),
      /from stream version 0 to 0/,
    );
    await ports.eventLog.append(w.batch({ events: [{ ...gap, streamVersion: 2 }] }));
    expect((await ports.eventLog.load([a])).get(a)?.events).toHaveLength(2);
  });

  test('events of another shard or epoch', async () => {
    const w = await writer(6);
    const event = w.event(sagaId(), noted(1));
    await refused(w.batch({ events: [{ ...event, shard: 5 }] }), /of shard 5/);
    await refused(w.batch({ events: [{ ...event, epoch: 1 }] }), /epoch 1/);
    expect(await position(6)).toMatchObject({ nextSeq: w.lease.nextSeq });
  });
});

test('load and history look into the one partition that can have the saga', async () => {
  const id = sagaId(Date.now());
  const plan = async (text: string, values: unknown[]): Promise<string> => {
    const { rows } = await db.pool.query<{ 'QUERY PLAN': string }>(
      `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ${text}`,
      values,
    );
    return rows.map((row) => row['QUERY PLAN']).join('\n');
  };
  const direct = await plan(
    'SELECT * FROM sagax.events WHERE saga_id = $1 AND stream_version > 0',
    [id],
  );
  expect(direct).not.toMatch(/events_default/);
  const { LOAD_SQL } = await import('../../engine/postgres/event-log.ts');
  const lateral = await plan(LOAD_SQL, [`{${id}}`, false]);
  expect(lateral).toMatch(/events_default.*\(never executed\)/);
  expect(lateral.match(/on events_\d{8}.*\(never executed\)/g)?.length ?? 0).toBeGreaterThanOrEqual(
    2,
  );
});
