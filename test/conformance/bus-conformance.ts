/**
 * What every adapter of the `Bus` port must do, as one suite: called once per adapter.
 *
 * Guards that the engine and the workers can't tell the buses apart. Nothing here sleeps: each test
 * awaits the delivery or the move that it is about, and the runner's timeout is what fails it.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Bus, BusBatch, BusMessage } from '../../engine/ports.ts';
import { BusRecorder } from './bus-recorder.ts';

/** A member of a group in a process of its own. */
export interface ForeignMember {
  /** Partitions that it owns by now; resolves when it owns at least `count`. */
  owns(count: number): Promise<void>;
  /** Ends it with no goodbye, as `kill -9` does. */
  kill(): Promise<void>;
}

export interface BusHarness {
  /** A bus as another process would open it: it shares nothing with the others but the broker. */
  open(): Bus;
  /** Puts bytes that `publish` can't: null, invalid UTF-8, nothing. Left out: those tests are skipped. */
  publishRaw?(topic: string, partition: number, value: Buffer | null): Promise<void>;
  /** Left out: the tests of a killed member are skipped. */
  spawnMember?(group: string, topic: string): Promise<ForeignMember>;
  /** Closes what `open` gave and what the harness holds. */
  close(): Promise<void>;
}

const PARTITIONS = 4;

export function busConformance(
  name: string,
  makeHarness: () => Promise<BusHarness>,
  options: { skip?: boolean } = {},
): void {
  describe.skipIf(options.skip === true)(`bus conformance: ${name}`, () => {
    let harness: BusHarness;
    let bus: Bus;
    const context: Context = {
      open: () => harness.open(),
      bus: () => bus,
      harness: () => harness,
      topic: async (partitions = PARTITIONS) => {
        const topic = `t-${randomBytes(5).toString('hex')}`;
        await bus.ensureTopics([{ topic, partitions }]);
        return topic;
      },
    };
    beforeAll(async () => {
      harness = await makeHarness();
      bus = harness.open();
    });
    afterAll(() => harness.close());

    topicTests(context);
    deliveryTests(context);
    offsetTests(context);
    flowTests(context);
    membershipTests(context);
    poisonTests(context);
  });
}

interface Context {
  open(): Bus;
  bus(): Bus;
  harness(): BusHarness;
  topic(partitions?: number): Promise<string>;
}

function topicTests({ bus, topic }: Context): void {
  it('makes topics once and refuses another partition count', async () => {
    const name = await topic(3);
    await bus().ensureTopics([{ topic: name, partitions: 3 }]);
    const refused = bus().ensureTopics([{ topic: name, partitions: 5 }]);
    await expect(refused).rejects.toMatchObject({ code: 'TOPOLOGY_MISMATCH' });
    await expect(refused).rejects.toThrow(new RegExp(`${name}.*3.*5`));
  });

  it('refuses messages to a partition that the topic does not have', async () => {
    const name = await topic(2);
    const wrong = bus().publish([message(name, 2, 'lost')]);
    await expect(wrong).rejects.toMatchObject({ code: 'TOPOLOGY_MISMATCH' });
  });

  it('refuses messages to a topic that does not exist, and fails no others with them', async () => {
    const name = await topic(1);
    const missing = `${name}-not`;
    const good = Array.from({ length: 20 }, (_, i) => message(name, 0, `${i}`));
    const publish = (messages: BusMessage[]): Promise<void> => bus().publish(messages);
    // Side by side, so that they would go out together.
    const settled = await Promise.allSettled([
      ...good.slice(0, 10).map((one) => publish([one])),
      publish([message(missing, 0, 'lost')]),
      publish([message(name, 0, 'with it'), message(missing, 0, 'lost')]),
      ...good.slice(10).map((one) => publish([one])),
    ]);
    const refused = settled.filter((one) => one.status === 'rejected').map(({ reason }) => reason);
    expect(refused).toEqual([
      expect.objectContaining({ code: 'TOPOLOGY_MISMATCH' }),
      expect.objectContaining({ code: 'TOPOLOGY_MISMATCH' }),
    ]);
    for (const { message: text } of refused as Error[]) expect(text).toContain(missing);
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(recorder.options({ group: `g-${name}`, topics: [name] }));
    await recorder.until(() => good.every(({ value }) => recorder.values.includes(value)));
    await subscription.close();
    // It may appear, and then it is as good as any.
    await bus().ensureTopics([{ topic: missing, partitions: 1 }]);
    await bus().publish([message(missing, 0, 'found')]);
  });

  it('tells the end offsets and answers a ping', async () => {
    const name = await topic(2);
    expect(await bus().endOffsets(name)).toEqual(
      new Map([
        [0, 0n],
        [1, 0n],
      ]),
    );
    await bus().publish([message(name, 1, 'a'), message(name, 1, 'b')]);
    expect(await bus().endOffsets(name)).toEqual(
      new Map([
        [0, 0n],
        [1, 2n],
      ]),
    );
    await bus().ping();
  });
}

function deliveryTests({ bus, topic }: Context): void {
  it('keeps key, headers and text unchanged', async () => {
    const name = await topic(1);
    const sent: BusMessage = {
      topic: name,
      partition: 0,
      key: '7221',
      headers: { ce_type: 'sagax.reply.v1', 'x-utf8': 'grün', empty: '' },
      value: '{"text":"ж 😀 \\u0000"}',
    };
    await bus().publish([sent]);
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(recorder.options({ group: `g-${name}`, topics: [name] }));
    await recorder.until(() => recorder.messages.length === 1);
    await subscription.close();
    expect(recorder.messages).toEqual([{ ...sent, offset: 0n }]);
  });

  it('keeps order per partition over many calls and batches', async () => {
    const name = await topic();
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(
      recorder.options({ group: `g-${name}`, topics: [name], maxBatch: 7 }),
    );
    await subscription.ready();
    const calls = Array.from({ length: 50 }, (_, call) =>
      bus().publish(
        Array.from({ length: 8 }, (_, i) => message(name, i % PARTITIONS, `${call * 8 + i}`)),
      ),
    );
    await Promise.all(calls);
    await recorder.until(() => recorder.messages.length >= 400);
    await subscription.close();
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const expected = Array.from({ length: 100 }, (_, i) => `${i * PARTITIONS + partition}`);
      expect(recorder.valuesOf(partition)).toEqual(expected);
      const offsets = recorder.messages
        .filter((m) => m.partition === partition)
        .map((m) => m.offset);
      expect(offsets).toEqual(Array.from({ length: 100 }, (_, i) => BigInt(i)));
    }
    expect(recorder.batches.every(({ messages }) => messages.length <= 7)).toBe(true);
    expect(recorder.batches.some(({ messages }) => messages.length > 1)).toBe(true);
  });

  it('carries 5 MB in one call, in order', async () => {
    const name = await topic(2);
    const body = 'x'.repeat(100_000);
    const sent = Array.from({ length: 50 }, (_, i) => message(name, i % 2, `${i}:${body}`));
    const large = message(name, 0, `50:${'y'.repeat(900_000)}`);
    await bus().publish([...sent, large]);
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(recorder.options({ group: `g-${name}`, topics: [name] }));
    await recorder.until(() => recorder.messages.length === 51);
    await subscription.close();
    const numbers = (partition: number): number[] =>
      recorder.valuesOf(partition).map((value) => Number(value?.slice(0, value.indexOf(':'))));
    expect(numbers(0)).toEqual([...Array.from({ length: 25 }, (_, i) => i * 2), 50]);
    expect(numbers(1)).toEqual(Array.from({ length: 25 }, (_, i) => i * 2 + 1));
  });

  it('delivers to each group, and to one member of each', async () => {
    const name = await topic();
    const recorders = [new BusRecorder(), new BusRecorder()];
    const subscriptions = recorders.map((recorder, i) =>
      bus().subscribe(recorder.options({ group: `g${i}-${name}`, topics: [name] })),
    );
    await bus().publish([message(name, 0, 'a'), message(name, 3, 'b')]);
    await Promise.all(recorders.map((r) => r.until(() => r.messages.length === 2)));
    await Promise.all(subscriptions.map((subscription) => subscription.close()));
    expect(recorders.map((r) => [...r.values].toSorted(byText))).toEqual([
      ['a', 'b'],
      ['a', 'b'],
    ]);
  });
}

function offsetTests({ bus, topic, open }: Context): void {
  it('goes on at the committed offset after it was closed and opened, also when told late', async () => {
    const name = await topic(1);
    await bus().publish(['a', 'b', 'c', 'd'].map((value) => message(name, 0, value)));
    const first = new BusRecorder();
    const before = bus().subscribe(
      first.options({ group: `g-${name}`, topics: [name], maxBatch: 2 }),
    );
    await first.until(() => first.messages.length === 4);
    // Long after `onBatch` returned, and for less than was delivered.
    first.batches[0]?.commit(2n);
    await before.close();
    const second = new BusRecorder();
    const other = open();
    const after = other.subscribe(second.options({ group: `g-${name}`, topics: [name] }));
    await second.until(() => second.messages.length >= 2);
    await after.close();
    expect(second.values).toEqual(['c', 'd']);
  });

  it('starts where onAssigned says, whatever was committed', async () => {
    const name = await topic(1);
    await bus().publish(['a', 'b', 'c', 'd'].map((value) => message(name, 0, value)));
    const group = `g-${name}`;
    const first = new BusRecorder();
    const before = bus().subscribe(first.options({ group, topics: [name] }));
    await first.until(() => first.messages.length === 4);
    first.batches[0]?.commit(4n);
    await before.close();
    const second = new BusRecorder();
    const after = bus().subscribe(
      second.options({ group, topics: [name], onAssigned: () => Promise.resolve(1n) }),
    );
    await second.until(() => second.values.includes('d'));
    await after.close();
    // Older ones may come too: the consumer filters. From the offset on there is no gap.
    expect(second.messages.filter((m) => m.offset >= 1n).map((m) => m.value)).toEqual([
      'b',
      'c',
      'd',
    ]);
  });

  it('reads again from resumeAt', async () => {
    const name = await topic(1);
    await bus().publish(['a', 'b', 'c'].map((value) => message(name, 0, value)));
    let asked = false;
    const recorder = new BusRecorder((batch) => {
      if (asked || batch.messages.at(-1)?.value !== 'c') return Promise.resolve();
      asked = true;
      return Promise.resolve({ resumeAt: 1n });
    });
    const subscription = bus().subscribe(recorder.options({ group: `g-${name}`, topics: [name] }));
    await recorder.until(() => recorder.values.filter((value) => value === 'c').length === 2);
    await subscription.close();
    expect(recorder.values).toEqual(['a', 'b', 'c', 'b', 'c']);
  });

  it('skips forward to resumeAt', async () => {
    const name = await topic(1);
    await bus().publish(['a', 'b', 'c', 'd'].map((value) => message(name, 0, value)));
    const recorder = new BusRecorder((batch) =>
      Promise.resolve(batch.messages[0]?.value === 'a' ? { resumeAt: 3n } : undefined),
    );
    const options = recorder.options({ group: `g-${name}`, topics: [name], maxBatch: 1 });
    const subscription = bus().subscribe(options);
    await recorder.until(() => recorder.values.includes('d'));
    await subscription.close();
    expect(recorder.values).toEqual(['a', 'd']);
  });
}

function flowTests({ bus, topic }: Context): void {
  it('delivers a rejected batch again, the same, while other partitions go on', async () => {
    const name = await topic(2);
    let failures = 0;
    const recorder = new BusRecorder((batch) => {
      if (batch.partition !== 0 || failures === 2) return Promise.resolve();
      failures += 1;
      return Promise.reject(new Error('not today'));
    });
    const subscription = bus().subscribe(recorder.options({ group: `g-${name}`, topics: [name] }));
    await bus().publish([message(name, 0, 'a'), message(name, 0, 'b'), message(name, 1, 'other')]);
    await recorder.until(
      () => recorder.valuesOf(0).length >= 6 && recorder.valuesOf(1).length === 1,
    );
    await subscription.close();
    expect(recorder.valuesOf(0)).toEqual(['a', 'b', 'a', 'b', 'a', 'b']);
  });

  it('holds a partition back while its batch runs, and no other one', async () => {
    const name = await topic(2);
    const gate = Promise.withResolvers<void>();
    let running = 0;
    let together = 0;
    const recorder = new BusRecorder(async (batch) => {
      if (batch.partition !== 0) return;
      running += 1;
      together = Math.max(together, running);
      await gate.promise;
      running -= 1;
    });
    const options = recorder.options({ group: `g-${name}`, topics: [name], maxBatch: 2 });
    const subscription = bus().subscribe(options);
    await bus().publish([message(name, 0, 'slow 0')]);
    await recorder.until(() => recorder.valuesOf(0).length === 1);
    for (let i = 1; i <= 20; i++) {
      await bus().publish([message(name, 0, `slow ${i}`), message(name, 1, `quick ${i}`)]);
      await recorder.until(() => recorder.valuesOf(1).length === i);
    }
    expect(recorder.valuesOf(0)).toEqual(['slow 0']);
    gate.resolve();
    await recorder.until(() => recorder.valuesOf(0).length === 21);
    await subscription.close();
    expect(together).toBe(1);
    expect(recorder.valuesOf(0)).toEqual(Array.from({ length: 21 }, (_, i) => `slow ${i}`));
  });

  it('awaits onAssigned before the first batch, partition by partition', async () => {
    const name = await topic(2);
    await bus().publish([message(name, 0, 'held'), message(name, 1, 'free')]);
    const gate = Promise.withResolvers<null>();
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(
      recorder.options({
        group: `g-${name}`,
        topics: [name],
        onAssigned: (_, partition) => (partition === 0 ? gate.promise : Promise.resolve(null)),
      }),
    );
    await recorder.until(() => recorder.values.includes('free'));
    expect(recorder.values).toEqual(['free']);
    gate.resolve(null);
    await recorder.until(() => recorder.values.includes('held'));
    await subscription.close();
  });

  it('close waits for the running batch, then revokes and commits', async () => {
    const name = await topic(1);
    const gate = Promise.withResolvers<void>();
    const group = `g-${name}`;
    const recorder = new BusRecorder(async (batch: BusBatch) => {
      await gate.promise;
      batch.commit(1n);
    });
    const subscription = bus().subscribe(recorder.options({ group, topics: [name], maxBatch: 1 }));
    await bus().publish([message(name, 0, 'a'), message(name, 0, 'b')]);
    await recorder.until(() => recorder.messages.length === 1);
    let closed = false;
    const closing = subscription.close().then(() => (closed = true));
    await bus().ping();
    expect([closed, recorder.moves]).toEqual([false, [`+${name}/0`]]);
    gate.resolve();
    await closing;
    expect(recorder.moves).toEqual([`+${name}/0`, `-${name}/0`]);
    expect([recorder.values, subscription.assigned()]).toEqual([['a'], []]);
    const next = new BusRecorder();
    const again = bus().subscribe(next.options({ group, topics: [name] }));
    await next.until(() => next.messages.length === 1);
    await again.close();
    expect(next.values).toEqual(['b']);
  });
}

function membershipTests({ bus, topic, open, harness }: Context): void {
  it('shares partitions when a member joins, and takes them back when it leaves', async () => {
    const name = await topic();
    const group = `g-${name}`;
    const first = new BusRecorder();
    const one = bus().subscribe(first.options({ group, topics: [name] }));
    await first.until(() => first.moves.length === PARTITIONS);
    await one.ready();
    const second = new BusRecorder();
    const two = open().subscribe(second.options({ group, topics: [name] }));
    await second.until(() => second.moves.length === PARTITIONS / 2);
    await first.until(() => first.moves.length === PARTITIONS + PARTITIONS / 2);
    const partitions = (subscription: typeof one): number[] =>
      subscription.assigned().map(({ partition }) => partition);
    expect([...partitions(one), ...partitions(two)].toSorted(byNumber)).toEqual([0, 1, 2, 3]);
    expect(partitions(one)).toHaveLength(PARTITIONS / 2);

    await bus().publish(Array.from({ length: PARTITIONS }, (_, p) => message(name, p, `p${p}`)));
    await first.until(() => first.messages.length === 2);
    await second.until(() => second.messages.length === 2);
    expect(first.messages.map((m) => m.partition).toSorted(byNumber)).toEqual(
      partitions(one).toSorted(byNumber),
    );
    for (const batch of [...first.batches, ...second.batches]) batch.commit(1n);

    await two.close();
    await first.until(() => partitions(one).length === PARTITIONS);
    await bus().publish(
      Array.from({ length: PARTITIONS }, (_, p) => message(name, p, `again${p}`)),
    );
    await first.until(() => new Set(first.values.filter((v) => v?.startsWith('again'))).size === 4);
    await one.close();
    // Nothing that the other one had committed came again.
    expect(first.values.filter((v) => v?.startsWith('p'))).toHaveLength(2);
  });

  it('takes partitions away whose onAssigned never succeeds, and says so', async () => {
    const name = await topic();
    const group = `g-${name}`;
    const refused = new Set<number>();
    const all = Promise.withResolvers<void>();
    const first = new BusRecorder();
    const one = bus().subscribe(
      first.options({
        group,
        topics: [name],
        onAssigned: (_, partition) => {
          if (refused.add(partition).size === PARTITIONS) all.resolve();
          return Promise.reject(new Error('not today'));
        },
      }),
    );
    await all.promise;
    const second = new BusRecorder();
    const two = open().subscribe(second.options({ group, topics: [name] }));
    await second.until(() => second.moves.length === PARTITIONS / 2);
    await first.until(() => first.moves.length === PARTITIONS / 2);
    const gone = first.moves.map((move) => move.replace('-', '+'));
    expect(gone.toSorted(byText)).toEqual(second.moves.toSorted(byText));
    await one.close();
    await second.until(() => second.moves.length === PARTITIONS);
    await two.close();
  });

  it('takes over from a member that was killed', async ({ skip }) => {
    const { spawnMember } = harness();
    if (spawnMember === undefined) return skip('this adapter has no members that can be killed');
    const name = await topic();
    const group = `g-${name}`;
    const member = await spawnMember(group, name);
    await member.owns(PARTITIONS);
    await bus().publish(Array.from({ length: PARTITIONS }, (_, p) => message(name, p, `p${p}`)));
    await member.kill();
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(recorder.options({ group, topics: [name] }));
    await recorder.until(() => recorder.messages.length === PARTITIONS);
    expect(subscription.assigned()).toHaveLength(PARTITIONS);
    await subscription.close();
    expect([...recorder.values].toSorted(byText)).toEqual(['p0', 'p1', 'p2', 'p3']);
  });
}

function poisonTests({ bus, topic, harness }: Context): void {
  it('delivers null, empty and broken values as such, and goes on', async ({ skip }) => {
    const { publishRaw } = harness();
    if (publishRaw === undefined) return skip('this adapter holds text only');
    const name = await topic(1);
    await publishRaw(name, 0, null);
    await publishRaw(name, 0, Buffer.alloc(0));
    await publishRaw(name, 0, Buffer.from([0x7b, 0xff, 0xfe, 0x7d]));
    await bus().publish([message(name, 0, 'good')]);
    const recorder = new BusRecorder();
    const subscription = bus().subscribe(recorder.options({ group: `g-${name}`, topics: [name] }));
    await recorder.until(() => recorder.messages.length === 4);
    await subscription.close();
    expect(recorder.values).toEqual([null, '', '{\u{fffd}\u{fffd}}', 'good']);
    expect(recorder.messages.map(({ offset }) => offset)).toEqual([0n, 1n, 2n, 3n]);
  });
}

export function message(topic: string, partition: number, value: string): BusMessage {
  return { topic, partition, key: `k${partition}`, headers: { ce_id: value.slice(0, 20) }, value };
}

function byText(a: string | null, b: string | null): number {
  return String(a) < String(b) ? -1 : 1;
}

function byNumber(a: number, b: number): number {
  return a - b;
}
