/**
 * A broker that is killed under load and comes back, and batches that kafkajs itself can't read.
 *
 * Guards that nothing that was acknowledged is lost, that calls fail in bounded time while the broker is
 * away, and that subscriptions go on by themselves. Uses a broker of its own, since it kills it.
 */
import kafkajs from 'kafkajs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UNREADABLE_HEADER } from '../../engine/kafka/codecs.ts';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import type { Bus } from '../../engine/ports.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { message } from '../conformance/bus-conformance.ts';
import { KafkaServer, missingForKafka } from '../support/kafka-server.ts';
import { kafkaBrokers } from '../support/kafka.ts';

const PARTITIONS = 3;
const skipped = kafkaBrokers() === null || missingForKafka() !== null;

describe.skipIf(skipped)('a broker of its own', () => {
  const server = new KafkaServer();
  let bus: Bus;
  beforeAll(async () => {
    const brokers = await server.start();
    bus = createKafkaBus({ brokers, publishTimeoutMs: 3_000, sessionTimeoutMs: 1_500 });
  });
  afterAll(async () => {
    await bus.close();
    await server.stop();
  });

  it('loses nothing that it acknowledged when it is killed, and goes on by itself', async () => {
    const topic = 'killed';
    await bus.ensureTopics([{ topic, partitions: PARTITIONS }]);
    const recorder = new BusRecorder();
    const subscription = bus.subscribe(recorder.options({ group: 'g', topics: [topic] }));
    await subscription.ready();
    const acked = new Set<string>();
    let sent = 0;
    let failed = 0;
    let down: Promise<void> | null = null;
    // Publishes one call after another, from before the kill until some calls went through after it.
    for (let after = 0; after < 20;) {
      const values = Array.from({ length: 6 }, () => `m${sent++}`);
      const wave = values.map((value, i) => message(topic, i % PARTITIONS, value));
      const ok = await bus.publish(wave).then(
        () => true,
        (error: unknown) => {
          expect((error as { code: string }).code).toBe('BUS_UNAVAILABLE');
          failed += 1;
          return false;
        },
      );
      if (ok) values.forEach((value) => acked.add(value));
      if (ok && down !== null) after += 1;
      if (acked.size === 120 && down === null) down = server.kill().then(() => server.restart());
    }
    await down;
    await recorder.until(() => {
      const seen = new Set(recorder.values);
      return [...acked].every((value) => seen.has(value));
    });
    await subscription.close();
    expect(acked.size).toBeGreaterThanOrEqual(240);
    // In order among those that were acknowledged, per partition, by first sight.
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const first = [...new Set(recorder.valuesOf(partition))].filter((v) => acked.has(v ?? ''));
      const numbers = first.map((value) => Number(value?.slice(1)));
      expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
    }
    console.log(
      `killed: ${acked.size} acknowledged, all delivered; ${failed} calls failed meanwhile`,
    );
  });

  it('fails in bounded time while the broker is away, and works when it is back', async () => {
    const topic = 'away';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    await server.kill();
    const started = performance.now();
    const failures = [bus.publish([message(topic, 0, 'lost?')]), bus.ping()];
    for (const failure of failures) {
      await expect(failure).rejects.toMatchObject({ code: 'BUS_UNAVAILABLE' });
    }
    expect(performance.now() - started).toBeLessThan(5_000);
    await server.restart();
    await bus.publish([message(topic, 0, 'back')]);
    await bus.ping();
  });

  it('keeps its partitions while onBatch takes longer than the session timeout', async () => {
    const topic = 'slow';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    const recorder = new BusRecorder(async ({ messages }) => {
      // The time is the point: more than three session timeouts go by.
      if (messages[0]?.value === 'a') await new Promise((resolve) => setTimeout(resolve, 5_000));
    });
    const subscription = bus.subscribe(
      recorder.options({ group: 'slow', topics: [topic], maxBatch: 1 }),
    );
    await bus.publish([message(topic, 0, 'a'), message(topic, 0, 'b')]);
    await recorder.until(() => recorder.messages.length === 2);
    await subscription.close();
    expect(recorder.moves).toEqual([`+${topic}/0`, `-${topic}/0`]);
    expect(recorder.values).toEqual(['a', 'b']);
  });

  it('reads zstd, and passes batches in other codecs as unreadable messages', async () => {
    const topic = 'codecs';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    await bus.publish([message(topic, 0, 'before')]);
    await sendCompressed(server.brokers, topic, 'ZSTD', ['z1', 'z2']);
    await sendCompressed(server.brokers, topic, 'GZIP', ['g1']);
    await putLz4(server.brokers, topic);
    await bus.publish([message(topic, 0, 'after')]);
    const recorder = new BusRecorder();
    const subscription = bus.subscribe(recorder.options({ group: 'codecs', topics: [topic] }));
    await recorder.until(() => recorder.values.includes('after'));
    await subscription.close();
    expect(recorder.values).toEqual(['before', 'z1', 'z2', 'g1', null, null, 'after']);
    expect(recorder.messages.map(({ offset }) => offset)).toEqual([0n, 1n, 2n, 3n, 4n, 5n, 6n]);
    expect(recorder.messages[4]?.headers).toEqual({ [UNREADABLE_HEADER]: 'lz4' });
  });
});

async function sendCompressed(
  brokers: string[],
  topic: string,
  codec: 'ZSTD' | 'GZIP' | 'LZ4',
  values: string[],
): Promise<void> {
  const { Kafka, CompressionTypes, logLevel } = kafkajs;
  const producer = new Kafka({ brokers, logLevel: logLevel.NOTHING }).producer();
  await producer.connect();
  await producer.send({
    topic,
    compression: CompressionTypes[codec],
    messages: values.map((value) => ({ value, partition: 0 })),
  });
  await producer.disconnect();
}

/** Two records in a real LZ4 frame, uncompressed blocks: what brokers accept and kafkajs has no codec for. */
async function putLz4(brokers: string[], topic: string): Promise<void> {
  const { CompressionCodecs, CompressionTypes } = kafkajs;
  const ours = CompressionCodecs[CompressionTypes.LZ4];
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: ({ buffer }: { buffer: Buffer }) => Promise.resolve(lz4Frame(buffer)),
    decompress: () => Promise.reject(new Error('not used')),
  });
  try {
    await sendCompressed(brokers, topic, 'LZ4', ['l1', 'l2']);
  } finally {
    CompressionCodecs[CompressionTypes.LZ4] = ours;
  }
}

function lz4Frame(data: Buffer): Buffer {
  // Magic, FLG (version 1, independent blocks), BD (64 KiB), header checksum; one stored block; end mark.
  const header = Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
  const size = Buffer.alloc(4);
  // The highest bit says that the block is stored as it is.
  size.writeUInt32LE((data.length | 0x80000000) >>> 0);
  return Buffer.concat([header, size, data, Buffer.alloc(4)]);
}
