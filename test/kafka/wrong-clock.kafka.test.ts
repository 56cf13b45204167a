/**
 * A process whose wall clock is hours off publishes all the same: a broker would refuse its messages' times.
 *
 * Guards that such an engine goes on sending commands (I10), and that where it can't, it says why.
 */
import { randomBytes } from 'node:crypto';
import { Admin } from '@platformatic/kafka';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import type { Bus } from '../../engine/ports.ts';
import { message } from '../conformance/bus-conformance.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { kafkaBrokers } from '../support/kafka.ts';

const brokers = kafkaBrokers();
const HOUR_MS = 3_600_000;

describe.skipIf(brokers === null)('a clock that is wrong', () => {
  const topic = (name: string): string => `clock-${suffix}.${name}`;
  const suffix = randomBytes(4).toString('hex');
  let bus: Bus;
  beforeAll(() => {
    bus = createKafkaBus({ brokers: brokers ?? [] });
  });
  afterAll(() => bus.close());
  afterEach(() => void vi.useRealTimers());

  const shiftClock = (ms: number): void => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + ms, shouldAdvanceTime: false });
  };

  it.each([3 * HOUR_MS, -3 * HOUR_MS, -30 * 24 * HOUR_MS])(
    'by %i ms: what is published is there to be read',
    async (off_ms) => {
      const name = topic(`off${off_ms}`);
      await bus.ensureTopics([{ topic: name, partitions: 1 }]);
      shiftClock(off_ms);
      await bus.publish([message(name, 0, 'a')]);
      vi.useRealTimers();
      const recorder = new BusRecorder();
      const subscription = bus.subscribe(recorder.options({ group: name, topics: [name] }));
      await recorder.until(() => recorder.messages.length === 1);
      await subscription.close();
      expect(recorder.values).toEqual(['a']);
    },
  );

  it('is told as the reason where a topic that was made otherwise has the producers own times', async () => {
    const name = topic('own');
    const admin = new Admin({ clientId: 'clock', bootstrapBrokers: brokers ?? [] });
    try {
      await admin.createTopics({ topics: [name], partitions: 1, replicas: 1 });
    } finally {
      await admin.close();
    }
    shiftClock(3 * HOUR_MS);
    await expect(bus.publish([message(name, 0, 'a')])).rejects.toMatchObject({
      code: 'BUS_UNAVAILABLE',
      message: expect.stringMatching(/Set this machine's clock.*LogAppendTime/) as string,
    });
  });
});
