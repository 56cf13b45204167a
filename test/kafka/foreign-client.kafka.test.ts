/**
 * A participant written without anything of Sagax: another Kafka client, and JSON made by hand.
 *
 * Guards the wire protocol as docs/WIRE.md tells it: what the engine sends can be read, and what a
 * stranger answers by the page alone is understood and lands where the engine listens.
 */
import { randomBytes } from 'node:crypto';
import {
  Consumer,
  MessagesStreamModes,
  ProduceAcks,
  Producer,
  stringDeserializers,
  stringSerializers,
} from '@platformatic/kafka';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { partitionOf } from '../../engine/core/shards.ts';
import {
  CE_TYPES,
  decodeCommand,
  decodeInbox,
  encodeMessage,
  topicNames,
  type CommandBody,
} from '../../engine/core/wire.ts';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import type { Bus } from '../../engine/ports.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { kafkaBrokers } from '../support/kafka.ts';

const brokers = kafkaBrokers();
const SHARDS = 8;
const SAGA_ID = '173212345678901248';

describe.skipIf(brokers === null)('a client other than ours', () => {
  const names = topicNames(`foreign-${randomBytes(4).toString('hex')}`);
  const commands = names.commands('billing');
  const bootstrapBrokers = brokers ?? [];
  let bus: Bus;
  beforeAll(async () => {
    bus = createKafkaBus({ brokers: bootstrapBrokers });
    await bus.ensureTopics([
      { topic: commands, partitions: 3 },
      { topic: names.inbox, partitions: SHARDS },
    ]);
  });
  afterAll(() => bus.close());

  it('reads a command and answers it, in the partition that replyTo names', async () => {
    const shard = partitionOf(SAGA_ID, SHARDS);
    await sendCommand(bus, commands, {
      commandId: `${SAGA_ID}.1`,
      sagaId: SAGA_ID,
      namespace: 'default',
      command: 'billing.charge-card',
      op: 'do',
      attempt: 1,
      input: { amount: '12.50', note: 'grün' },
      replyTo: { topic: names.inbox, partition: shard },
    });
    const got = await readOne(bootstrapBrokers, commands);
    expect(got.key).toBe(SAGA_ID);
    expect(got.headers).toMatchObject({
      'content-type': 'application/json',
      ce_specversion: '1.0',
      ce_type: 'sagax.command.v1',
      ce_id: `${SAGA_ID}.1#1`,
      ce_subject: SAGA_ID,
    });
    expect(decodeCommand(got).input).toEqual({ amount: '12.50', note: 'grün' });

    const recorder = new BusRecorder();
    const inbox = bus.subscribe(recorder.options({ group: 'engine', topics: [names.inbox] }));
    await replyByHand(bootstrapBrokers, got.value);
    await recorder.until(() => recorder.messages.length === 1);
    await inbox.close();
    const [reply] = recorder.messages;
    expect(reply?.partition).toBe(shard);
    expect(decodeInbox(reply ?? { headers: {}, value: null })).toEqual({
      type: 'reply',
      body: {
        commandId: `${SAGA_ID}.1`,
        sagaId: SAGA_ID,
        namespace: 'default',
        attempt: 1,
        outcome: 'succeeded',
        output: { chargeId: 'ch_1' },
      },
    });
  });

  it('ends up in the right partition by the key alone', async () => {
    const producer = new Producer({
      clientId: 'stranger',
      bootstrapBrokers,
      serializers: stringSerializers,
    });
    const sagaIds = Array.from({ length: 40 }, (_, i) => `${BigInt(SAGA_ID) + BigInt(i * 4096)}`);
    const sent = await producer.send({
      acks: ProduceAcks.ALL,
      messages: sagaIds.map((key) => ({ topic: names.inbox, key, value: '{}' })),
    });
    await producer.close();
    expect(sent.offsets?.length).toBeGreaterThan(1);
    const recorder = new BusRecorder();
    const inbox = bus.subscribe(recorder.options({ group: 'by-key', topics: [names.inbox] }));
    const found = (): Map<string | null, number> =>
      new Map(recorder.messages.map(({ key, partition }) => [key, partition]));
    await recorder.until(() =>
      sagaIds.every((sagaId) => found().has(sagaId) || sagaId === SAGA_ID),
    );
    await inbox.close();
    for (const sagaId of sagaIds.slice(1)) {
      expect(found().get(sagaId), sagaId).toBe(partitionOf(sagaId, SHARDS));
    }
  });
});

async function sendCommand(bus: Bus, topic: string, body: CommandBody): Promise<void> {
  const message = encodeMessage(
    {
      type: CE_TYPES.command,
      id: `${body.commandId}#${body.attempt}`,
      source: '/sagax/engine',
      at: 1_735_700_000_000,
      sagaId: body.sagaId,
    },
    body,
  );
  await bus.publish([{ topic, partition: partitionOf(body.sagaId, 3), ...message }]);
}

async function readOne(
  bootstrapBrokers: string[],
  topic: string,
): Promise<{ key: string; headers: { [name: string]: string }; value: string }> {
  const consumer = new Consumer({
    clientId: 'stranger',
    groupId: `stranger-${topic}`,
    bootstrapBrokers,
    deserializers: stringDeserializers,
  });
  const stream = await consumer.consume({ topics: [topic], mode: MessagesStreamModes.EARLIEST });
  try {
    for await (const { key, headers, value } of stream) {
      return { key, headers: Object.fromEntries(headers), value };
    }
    throw new Error('the stream ended');
  } finally {
    await stream.close();
    await consumer.close(true);
  }
}

/** What a participant in any language does: nothing here knows more than the command's own JSON. */
async function replyByHand(bootstrapBrokers: string[], command: string): Promise<void> {
  const { commandId, sagaId, namespace, attempt, replyTo } = JSON.parse(command) as {
    [name: string]: string;
  } & { replyTo: { topic: string; partition: number } };
  const producer = new Producer({
    clientId: 'stranger',
    bootstrapBrokers,
    serializers: stringSerializers,
  });
  await producer.send({
    acks: ProduceAcks.ALL,
    messages: [
      {
        topic: replyTo.topic,
        partition: replyTo.partition,
        key: sagaId as string,
        headers: {
          'content-type': 'application/json',
          ce_specversion: '1.0',
          ce_type: 'sagax.reply.v1',
          ce_id: `${commandId}#${attempt}#succeeded`,
          ce_source: '/billing',
        },
        value: JSON.stringify({
          commandId,
          sagaId,
          namespace,
          attempt,
          outcome: 'succeeded',
          output: { chargeId: 'ch_1' },
        }),
      },
    ],
  });
  await producer.close();
}
