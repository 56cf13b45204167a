/** From kafkajs's messages to the port's: text, plain headers, offsets as bigint. */
import type { KafkaMessage } from 'kafkajs';
import type { ReceivedMessage } from '../ports.ts';

export function receivedMessage(
  topic: string,
  partition: number,
  message: KafkaMessage,
): ReceivedMessage {
  return {
    topic,
    partition,
    offset: BigInt(message.offset),
    key: message.key?.toString('utf8') ?? null,
    headers: plainHeaders(message.headers),
    // Bytes that aren't UTF-8 become U+FFFD here, and fail later as what they are: no JSON.
    value: message.value?.toString('utf8') ?? null,
  };
}

/** Of a header that comes several times the last one counts. */
function plainHeaders(headers: KafkaMessage['headers']): { [name: string]: string } {
  const plain: { [name: string]: string } = {};
  for (const [name, given] of Object.entries(headers ?? {})) {
    const value = Array.isArray(given) ? given.at(-1) : given;
    if (value === undefined || value === null || name === '__proto__') continue;
    plain[name] = value.toString();
  }
  return plain;
}
