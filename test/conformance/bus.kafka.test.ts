/** The Kafka bus against a real broker; raw bytes are put by a client other than kafkajs. */
import { ProduceAcks, Producer } from '@platformatic/kafka';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import type { Bus } from '../../engine/ports.ts';
import { kafkaBrokers } from '../support/kafka.ts';
import { busConformance } from './bus-conformance.ts';
import { spawnForeignMember } from './bus-foreign-member.ts';

const brokers = kafkaBrokers();
/** The least that brokers accept by default. */
const sessionTimeoutMs = 6_000;

busConformance(
  'kafka',
  () => {
    const given = brokers ?? [];
    const opened: Bus[] = [];
    const raw = new Producer({ clientId: 'raw', bootstrapBrokers: given });
    return Promise.resolve({
      open: () => {
        const bus = createKafkaBus({ brokers: given, sessionTimeoutMs });
        opened.push(bus);
        return bus;
      },
      publishRaw: async (topic, partition, value) => {
        const key = Buffer.from('raw');
        await raw.send({
          acks: ProduceAcks.ALL,
          messages: [{ topic, partition, key, value: value as Buffer }],
        });
      },
      spawnMember: (group, topic) =>
        Promise.resolve(
          spawnForeignMember({ kind: 'kafka', brokers: given, sessionTimeoutMs, group, topic }),
        ),
      close: async () => {
        await Promise.all(opened.map((bus) => bus.close()));
        await raw.close();
      },
    });
  },
  { skip: brokers === null },
);
