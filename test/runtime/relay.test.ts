/** The relay: order, what counts as published, back-pressure while the bus is away, and take-over (I10). */
import { describe, expect, test } from 'vitest';
import type { LoggedEvent } from '../../engine/core/events.ts';
import { ManualClock, openMemory, settle } from '../../engine/memory/index.ts';
import type { Bus, EventLog } from '../../engine/ports.ts';
import { Relay } from '../../engine/runtime/relay.ts';
import {
  busAway,
  failing,
  Faults,
  held,
  Recorder,
  shardRig,
  startOf,
  TOPOLOGY,
  until,
} from './support.ts';

const SAGA = '1001';

const requested = (shardSeq: number): LoggedEvent =>
  logged(shardSeq, {
    type: 'StepRequested',
    commandId: `${SAGA}.${shardSeq}`,
    step: 'a',
    actorId: 'a',
    class: 'compensatable',
    command: 'svc.do-a',
    input: {},
  });
const noted = (shardSeq: number): LoggedEvent =>
  logged(shardSeq, { type: 'TimerFired', timerId: 't' });
/** Too large for one message. */
const huge = (shardSeq: number): LoggedEvent =>
  logged(shardSeq, {
    ...(requested(shardSeq).event as Extract<LoggedEvent['event'], { type: 'StepRequested' }>),
    input: { text: 'x'.repeat(1_000_000) },
  });
function logged(shardSeq: number, event: LoggedEvent['event']): LoggedEvent {
  return {
    sagaId: SAGA,
    namespace: 'default',
    streamVersion: shardSeq,
    shard: 0,
    shardSeq,
    epoch: 1,
    at: 0,
    event,
  };
}

interface Rig {
  clock: ManualClock;
  bus: Faults<Bus>;
  log: Faults<EventLog>;
  telemetry: Recorder;
  relay: Relay;
  progress: number[];
  /** shardSeqs on the bus, in order of publication. */
  published(): number[];
  write(events: LoggedEvent[]): void;
}

async function relayRig(publishedSeq = 0): Promise<Rig> {
  const clock = new ManualClock();
  const memory = openMemory({ shards: 1, clock });
  await memory.bus.ensureTopics([
    { topic: 't.commands.svc', partitions: 2 },
    { topic: 't.events', partitions: 2 },
  ]);
  const bus = new Faults(memory.bus);
  const log = new Faults(memory.eventLog);
  const telemetry = new Recorder();
  const progress: number[] = [];
  const deps = { bus: bus.port, eventLog: log.port, clock, topology: TOPOLOGY, telemetry };
  const relay: Relay = new Relay(deps, 0, publishedSeq, () => progress.push(relay.publishedSeq));
  return {
    clock,
    bus,
    log,
    telemetry,
    relay,
    progress,
    published: () =>
      memory.broker
        .record('t.commands.svc')
        .map(({ value }) =>
          Number((JSON.parse(value ?? '{}') as { commandId: string }).commandId.slice(5)),
        ),
    write: (events) => {
      for (const event of events) {
        const { sagaId, shard, streamVersion, shardSeq, epoch } = event;
        memory.db.byShard[0]?.push({
          sagaId,
          shard,
          streamVersion,
          shardSeq,
          epoch,
          type: event.event.type,
          text: JSON.stringify(event),
        });
      }
    },
  };
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, n) => from + n);

describe('order and progress', () => {
  test('publishes in order, and says no more than it has published', async () => {
    const rig = await relayRig();
    const publish = held();
    rig.bus.next('publish', publish.fate);
    rig.relay.offer([requested(1), noted(2)], 2);
    await publish.reached;
    rig.relay.offer([noted(3)], 3);
    rig.relay.offer([requested(4), noted(5), requested(6), noted(7)], 7);
    await settle();
    expect(rig.relay.publishedSeq).toBe(0);
    publish.release();
    await rig.relay.flush();
    expect(rig.published()).toEqual([1, 4, 6]);
    expect(rig.progress).toEqual([1, 7]);
  });

  test('events that need no message are done with at once', async () => {
    const rig = await relayRig();
    rig.relay.offer([noted(1), noted(2)], 2);
    expect(rig.relay.publishedSeq).toBe(2);
    expect(rig.bus.count('publish')).toBe(0);
  });

  test('a failed publication is repeated whole, before anything behind it', async () => {
    const rig = await relayRig();
    rig.bus.next('publish', failing(busAway), async (call) => {
      await call();
      throw busAway();
    });
    rig.relay.offer([requested(1), requested(2)], 2);
    await until('it failed', () => rig.bus.count('publish') === 1);
    rig.relay.offer([requested(3)], 3);
    expect(rig.relay.publishedSeq).toBe(0);
    await rig.clock.advance(50);
    expect(rig.relay.publishedSeq).toBe(0);
    await rig.clock.advance(100);
    expect(rig.published()).toEqual([1, 2, 3, 1, 2, 3]);
    expect(rig.relay.publishedSeq).toBe(3);
    expect(rig.telemetry.of('publish_failures_total')).toBe(2);
  });

  test('one publication has at most 500 messages', async () => {
    const rig = await relayRig();
    rig.relay.offer(range(1, 1_200).map(requested), 1_200);
    await rig.relay.flush();
    expect(rig.bus.count('publish')).toBe(3);
    expect(rig.progress).toEqual([500, 1_000, 1_200]);
    // Both partitions together hold all, each one in order.
    expect(rig.published()).toHaveLength(1_200);
  });

  test('an event that can not be a message is passed over, with a line that names it', async () => {
    const rig = await relayRig();
    rig.relay.offer([requested(1), huge(2), requested(3)], 3);
    await until('all is done with', () => rig.relay.publishedSeq === 3);
    expect(rig.published()).toEqual([1, 3]);
    expect(rig.telemetry.lines).toMatchObject([
      { level: 'error', fields: { sagaId: SAGA, streamVersion: 2 } },
    ]);
  });

  test('… also when it stands alone, and what comes after it goes out', async () => {
    const rig = await relayRig();
    rig.relay.offer([huge(1)], 1);
    await until('it is done with', () => rig.relay.publishedSeq === 1);
    rig.relay.offer([requested(2)], 2);
    await until('the next one is out', () => rig.relay.publishedSeq === 2);
    expect(rig.published()).toEqual([2]);
  });
});

describe('back-pressure', () => {
  test('while the bus is away for minutes nothing is let in beyond the backlog', async () => {
    const rig = await relayRig();
    rig.bus.always('publish', failing(busAway));
    let seq = 0;
    let batches = 0;
    const shard = (async () => {
      for (; batches < 30; batches++) {
        await rig.relay.room();
        const events = range(seq + 1, seq + 500).map(requested);
        seq += 500;
        rig.relay.offer(events, seq);
      }
    })();
    await rig.clock.advance(300_000);
    expect(seq).toBe(5_000);
    // About one try in two seconds.
    expect(rig.bus.count('publish')).toBeLessThan(170);
    rig.bus.heal();
    await rig.clock.advance(2_000);
    await shard;
    await rig.relay.flush();
    expect(rig.relay.publishedSeq).toBe(15_000);
    expect(rig.published()).toHaveLength(15_000);
  });

  test('stop lets everyone go', async () => {
    const rig = await relayRig();
    rig.bus.always('publish', failing(busAway));
    rig.relay.offer(range(1, 6_000).map(requested), 6_000);
    const [room, flush] = [rig.relay.room(), rig.relay.flush()];
    rig.relay.stop();
    await Promise.all([room, flush, rig.relay.room()]);
    expect(rig.relay.publishedSeq).toBe(0);
  });
});

describe('take-over', () => {
  test('publishes what lies behind the published position, page by page, and never says more', async () => {
    const rig = await relayRig(3);
    rig.write(range(1, 2_600).map((seq) => (seq % 5 === 0 ? noted(seq) : requested(seq))));
    await rig.relay.recover(2_600);
    await rig.relay.flush();
    const wanted = range(4, 2_600).filter((seq) => seq % 5 !== 0);
    expect([...rig.published()].sort((a, b) => a - b)).toEqual(wanted);
    expect(rig.log.count('readOutbox')).toBe(3);
    expect(rig.relay.publishedSeq).toBe(2_600);
    for (const [index, seq] of rig.progress.entries()) {
      const put = wanted.slice(0, Math.min(wanted.length, 500 * (index + 1)));
      expect(seq === 2_600 || seq <= (put.at(-1) ?? 0)).toBe(true);
    }
  });

  test.each([999, 1_000, 1_001, 2_000])('%i events to publish', async (count) => {
    const rig = await relayRig();
    rig.write([...range(1, count).map(requested), noted(count + 1)]);
    await rig.relay.recover(count + 1);
    await rig.relay.flush();
    expect(rig.published()).toHaveLength(count);
    expect(rig.relay.publishedSeq).toBe(count + 1);
  });

  test('a log that can not be read is asked again, and the position stays', async () => {
    const rig = await relayRig();
    rig.write(range(1, 1_500).map(requested));
    rig.log.next('readOutbox', failing());
    const recovered = rig.relay.recover(1_500);
    await settle();
    expect(rig.relay.publishedSeq).toBe(0);
    await rig.clock.advance(50);
    await recovered;
    await rig.relay.flush();
    expect(rig.published()).toHaveLength(1_500);
    expect(rig.relay.publishedSeq).toBe(1_500);
  });

  test('with the bus away no more than the backlog is read, and stop ends it', async () => {
    const rig = await relayRig();
    rig.bus.always('publish', failing(busAway));
    rig.write(range(1, 9_000).map(requested));
    const recovered = rig.relay.recover(9_000);
    await rig.clock.advance(60_000);
    expect(rig.log.count('readOutbox')).toBe(5);
    rig.relay.stop();
    await recovered;
    expect(rig.relay.publishedSeq).toBe(0);
  });

  test('new batches wait for it, and go out behind it', async () => {
    const rig = await shardRig();
    rig.bus.always('publish', failing(busAway));
    const first = await rig.open();
    await first.handle(rig.next(startOf('1'), startOf('2')));
    rig.memory.host.kill();
    const after = await shardRigOn(rig);
    expect(after).toEqual(['1.1', '2.1', '3.1']);
  });
});

/** The same log under a second owner whose first read of the outbox is slow. */
async function shardRigOn(rig: Awaited<ReturnType<typeof shardRig>>): Promise<string[]> {
  const second = rig.memory.another('second');
  Object.assign(rig.memory.eventLog, second.eventLog);
  Object.assign(rig.memory.shardLeases, second.shardLeases);
  Object.assign(rig.memory.bus, second.bus);
  rig.bus.heal();
  const read = held();
  rig.log.next('readOutbox', read.fate);
  const shard = await rig.open();
  const handled = shard.handle(rig.next(startOf('3')));
  await settle();
  expect(rig.types('3')).toEqual([]);
  read.release();
  await handled;
  await until('all is out', () => rig.commands().length === 3);
  const commands = rig.memory.broker
    .record('t.commands.svc')
    .map(({ value }) => (JSON.parse(value ?? '{}') as { commandId: string }).commandId);
  await shard.close();
  return commands.sort();
}
