/** Sends that stay within the brokers' limits, in the order given. */
import { expect, it } from 'vitest';
import type { BusMessage } from '../../engine/ports.ts';
import { messageBytes, splitMessages } from '../../engine/kafka/publisher.ts';

const message = (partition: number, size: number, key = 'k'): BusMessage => ({
  topic: 't',
  partition,
  key,
  headers: { ce_type: 'x' },
  value: 'v'.repeat(size),
});
const sized = (messages: BusMessage[]): Parameters<typeof splitMessages>[0] =>
  messages.map((m) => ({ message: m, bytes: messageBytes(m) }));

it('keeps a partition below 900 kB a send, and the order of everything', () => {
  const messages = Array.from({ length: 100 }, (_, i) => message(i % 3, 100_000, `${i}`));
  const chunks = splitMessages(sized(messages));
  expect(chunks.flat().map(({ message: m }) => m.key)).toEqual(messages.map(({ key }) => key));
  for (const chunk of chunks) {
    for (const partition of [0, 1, 2]) {
      const bytes = chunk
        .filter(({ message: m }) => m.partition === partition)
        .reduce((sum, item) => sum + item.bytes, 0);
      expect(bytes).toBeLessThanOrEqual(900_000);
    }
  }
  expect(chunks.length).toBe(5);
});

it('sends a large message alone in its partition, and bounds a send over many partitions', () => {
  const large = [message(0, 940_000), message(0, 10), message(1, 10)];
  expect(splitMessages(sized(large)).map((chunk) => chunk.length)).toEqual([1, 2]);
  const wide = Array.from({ length: 40 }, (_, partition) => message(partition, 800_000));
  expect(splitMessages(sized(wide)).map((chunk) => chunk.length)).toEqual([9, 9, 9, 9, 4]);
});
