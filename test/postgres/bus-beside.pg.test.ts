/**
 * The log and the bus in one database: what a batch has to say is on the bus when its events are in the log, and never
 * without them (I10), in gapless order beside whoever else publishes to the same partitions.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FencedError, SagaxError } from '../../engine/core/errors.ts';
import type { BusMessage, ShardBatch } from '../../engine/ports.ts';
import { createPostgresBus, type PostgresBus } from '../../engine/postgres/bus.ts';
import { delist, enlist, type Neighbour } from '../../engine/postgres/bus-neighbours.ts';
import type { Committed } from '../../engine/postgres/bus-offsets.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { requested, sagaId, taken, Writer } from './fixtures.ts';

const SHARDS = 8;
const PARTITIONS = 2;
let db: TestDatabase;
let ports: PostgresPorts;
let bus: PostgresBus;
let topic: string;
let topics = 0;

beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: SHARDS, migrate: false, bus: true });
  bus = createPostgresBus({ url: db.url });
});
beforeEach(async () => {
  topic = `commands-${++topics}`;
  await bus.ensureTopics([{ topic, partitions: PARTITIONS }]);
});
afterAll(async () => {
  await Promise.all([bus.close(), ports.close()]);
  await db.drop();
});

const take = async (shard: number, owner = 'me', from = ports): Promise<Writer> =>
  new Writer(await taken(from.shardLeases.acquire(shard, owner, 60_000, { steal: true })));

const message = (value: string, partition = 0): BusMessage => ({
  topic,
  partition,
  key: 'key',
  headers: { ce_type: 'a "quoted" \\ header' },
  value: JSON.stringify(value),
});

/** A batch of one event that has these things to say. */
function saying(w: Writer, ...messages: readonly BusMessage[]): ShardBatch {
  const saga = sagaId();
  return w.batch({ events: [w.event(saga, requested(`${saga}.1`))], messages: () => messages });
}

interface Row {
  partition: number;
  offset: string;
  key: string;
  headers: string;
  value: string;
}

async function onTheBus(): Promise<Row[]> {
  const { rows } = await db.pool.query<Row>(
    `SELECT p.partition, m."offset", m.key, m.headers, m.value FROM sagax.bus_messages m
       JOIN sagax.bus_partitions p ON p.id = m.partition_id WHERE p.topic = $1 ORDER BY p.partition, m."offset"`,
    [topic],
  );
  return rows;
}

const texts = async (): Promise<string[]> =>
  (await onTheBus()).map(
    ({ partition, offset, value }) => `${partition}/${offset} ${JSON.parse(value)}`,
  );

describe('a batch', () => {
  test('says what it has to say with its commit, in order, to whoever reads', async () => {
    const w = await take(0);
    const recorder = new BusRecorder();
    const reader = bus.subscribe(recorder.options({ group: 'g', topics: [topic] }));
    await reader.ready();
    const batch = saying(w, message('a', 1), message('b', 0), message('c \u0000 \ud800 "\\', 1));
    expect(await ports.eventLog.append(batch)).toEqual({ published: true });
    expect(await texts()).toEqual(['0/0 b', '1/0 a', '1/1 c \u0000 \ud800 "\\']);
    expect((await onTheBus())[0]).toMatchObject({
      key: 'key',
      headers: JSON.stringify({ ce_type: 'a "quoted" \\ header' }),
    });
    // Nothing of it is left to publish.
    expect((await take(0)).lease).toMatchObject({ publishedSeq: batch.events[0]?.shardSeq });
    await recorder.until(() => recorder.valuesOf(1).length === 2);
    await reader.close();
    expect(await bus.endOffsets(topic)).toEqual(
      new Map([
        [0, 1n],
        [1, 2n],
      ]),
    );
  });

  test('hands on what stands on the bus, whoever put it there', async () => {
    const handed: Committed[] = [];
    const neighbour: Neighbour = {
      isMember: true,
      published: (messages) => handed.push(...messages),
      ring: () => undefined,
      membershipChanged: () => undefined,
    };
    enlist(db.url, neighbour);
    const writers = await Promise.all(Array.from({ length: SHARDS }, (_, shard) => take(shard)));
    await take(3, 'thief');
    await bus.publish([message('p \ud800', 1), message('q'), message('r', 1)]);
    await Promise.allSettled(
      writers.map((w, shard) =>
        ports.eventLog.append(
          saying(w, message(`a ${shard}`, shard % 2), message(`b ${shard} \ud800`, 1)),
        ),
      ),
    );
    const halves = { key: 'half \udc00', headers: { h: '\udc00 "' }, value: '"raw \ud800"' };
    await bus.publish([{ ...message('s'), ...halves }]);
    delist(db.url, neighbour);
    const rows = await onTheBus();
    expect(rows).toHaveLength(4 + (SHARDS - 1) * 2);
    const inOrder = handed.toSorted((a, b) => a.id - b.id || Number(a.offset - b.offset));
    expect(
      inOrder.map(({ offset, key, headers, value }) => [`${offset}`, key, headers, value]),
    ).toEqual(
      rows.map(({ offset, key, headers, value }) => [offset, key, JSON.parse(headers), value]),
    );
  });

  test('goes on where others have published, and they behind it', async () => {
    const w = await take(0);
    await bus.publish([message('first')]);
    await ports.eventLog.append(saying(w, message('second'), message('third')));
    await bus.publish([message('fourth')]);
    expect(await texts()).toEqual(['0/0 first', '0/1 second', '0/2 third', '0/3 fourth']);
  });

  test('that is fenced says nothing, also in one statement with others that are not', async () => {
    const writers = await Promise.all(Array.from({ length: SHARDS }, (_, shard) => take(shard)));
    await Promise.all([2, 5].map((shard) => take(shard, 'thief')));
    // The topic has been looked up, so that all are ready in one turn.
    await ports.eventLog.append(saying(writers[0] as Writer, message('before')));
    const outcomes = await Promise.allSettled(
      writers.map((w, shard) => ports.eventLog.append(saying(w, message(`of ${shard}`)))),
    );
    const became = outcomes.map((outcome) =>
      outcome.status === 'fulfilled' ? outcome.value : (outcome.reason as Error).constructor,
    );
    const written = { published: true };
    expect(became).toEqual(
      writers.map((_, shard) => (shard === 2 || shard === 5 ? FencedError : written)),
    );
    const found = (await onTheBus()).slice(1);
    expect(found.map(({ offset }) => offset)).toEqual(['1', '2', '3', '4', '5', '6']);
    expect(found.map(({ value }) => value).toSorted()).toEqual(
      [0, 1, 3, 4, 6, 7].map((shard) => `"of ${shard}"`),
    );
    const { rows } = await db.pool.query<{ n: number }>(
      `SELECT count(DISTINCT m.xmin::text)::int AS n FROM sagax.bus_messages m
         JOIN sagax.bus_partitions p ON p.id = m.partition_id WHERE p.topic = $1 AND m."offset" > 0`,
      [topic],
    );
    expect(rows).toEqual([{ n: 1 }]);
  });

  test('that is out of order says nothing', async () => {
    const w = await take(1);
    w.nextSeq += 1;
    await expect(ports.eventLog.append(saying(w, message('never')))).rejects.toMatchObject({
      code: 'INTERNAL',
    });
    expect(await texts()).toEqual([]);
  });
});

describe('what can not go that way is left to the relay', () => {
  const left = {
    'a message over the limit': () => [message('x'.repeat(960_000))],
    'a partition that is not there': () => [message('ok'), message('nowhere', PARTITIONS)],
    'a topic that is not there': () => [{ ...message('nowhere'), topic: 'not-there' }],
    'a value with a line break': () => [{ ...message('x'), value: '{\n}' }],
    'too many of them': () => Array.from({ length: 501 }, (_, n) => message(String(n))),
    'too much of them': () => Array.from({ length: 6 }, () => message('x'.repeat(900_000))),
  };
  test.each(Object.entries(left))('%s', async (_, messages) => {
    const w = await take(3);
    const batch = saying(w, ...messages());
    expect(await ports.eventLog.append(batch)).toEqual({ published: false });
    expect(await texts()).toEqual([]);
    const [event] = batch.events;
    const streams = await ports.eventLog.load([event?.sagaId ?? '']);
    expect(streams.get(event?.sagaId ?? '')?.events).toHaveLength(1);
    expect((await take(3)).lease.publishedSeq).toBeLessThan(event?.shardSeq ?? 0);
  });

  test('and a log without the bus beside it does not even ask', async () => {
    const far = await openPostgres({ url: db.url, migrate: false });
    const w = await take(4, 'me', far);
    const messages = (): never => expect.unreachable('nobody is to ask');
    const saga = sagaId();
    const events = [w.event(saga, requested(`${saga}.1`))];
    expect(await far.eventLog.append(w.batch({ events, messages }))).toEqual({ published: false });
    await far.close();
  });
});

test('two nodes and a publisher on the same partitions: no gap, nothing lost, nothing twice', async () => {
  const far = await openPostgres({ url: db.url, migrate: false, bus: true });
  const said: string[] = [];
  const loop = async (node: PostgresPorts, shard: number): Promise<void> => {
    const w = await take(shard, `node of ${shard}`, node);
    for (let n = 0; n < 40; n++) {
      // Each names the partitions in another order: only sorted locks keep them from a deadlock.
      const mine = [0, 1].map((at) =>
        message(`${shard}-${n}-${at}`, (at + n + shard) % PARTITIONS),
      );
      const { published } = await node.eventLog.append(saying(w, ...mine));
      if (!published) throw new SagaxError('INTERNAL', 'left to the relay');
      said.push(...mine.map(({ value, partition }) => `${partition} ${value}`));
    }
  };
  const publisher = async (): Promise<void> => {
    for (let n = 0; n < 40; n++) {
      const mine = [message(`p-${n}`, 1), message(`p-${n}`, 0)];
      await bus.publish(mine);
      said.push(...mine.map(({ value, partition }) => `${partition} ${value}`));
    }
  };
  await Promise.all([
    ...[0, 1, 2, 3].map((shard) => loop(ports, shard)),
    ...[4, 5, 6, 7].map((shard) => loop(far, shard)),
    publisher(),
  ]);
  const rows = await onTheBus();
  expect(rows.map(({ partition, value }) => `${partition} ${value}`).toSorted()).toEqual(
    said.toSorted(),
  );
  const ends = await bus.endOffsets(topic);
  for (const partition of [0, 1]) {
    const offsets = rows
      .filter((row) => row.partition === partition)
      .map(({ offset }) => Number(offset));
    expect(offsets).toEqual(offsets.map((_, index) => index));
    expect(ends.get(partition)).toBe(BigInt(offsets.length));
    // Of each shard in its order.
    for (let shard = 0; shard < SHARDS; shard++) {
      const own = rows.flatMap(({ value, partition: at }) =>
        at === partition && value.startsWith(`"${shard}-`) ? [Number(value.split('-')[1])] : [],
      );
      expect(own).toEqual(own.toSorted((a, b) => a - b));
    }
  }
  await far.close();
}, 30_000);
