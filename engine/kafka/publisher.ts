/**
 * Publishing: gathers concurrent calls into one send, splits by bytes, and bounds every wait. What names a topic that
 * isn't there is refused before it is gathered.
 *
 * Guards (I10) that a resolved call's messages are on disk at the brokers (acks=all), in the order given
 * per partition. While one send is under way the next one gathers, so many small calls cost few
 * requests. A failed send costs its producer: kafkajs 2.2.4 winds its sequence numbers back after an
 * error, and a broker that had stored the first send would then take the next, different messages under
 * the same numbers for duplicates and drop them while it says yes. A new producer has a new id.
 */
import { CompressionTypes, Partitioners, type Kafka, type Producer } from 'kafkajs';
import { SagaxError } from '../core/errors.ts';
import type { BusMessage } from '../ports.ts';
import { topicFaultOf, unavailable, withDeadline } from './failures.ts';
import { topicRefused, type KnownTopics } from './known-topics.ts';
import type { KafkaSettings } from './options.ts';

/** A partition's part of one send; the broker's `message.max.bytes` (1 MiB) counts per partition. */
const MAX_PARTITION_BYTES = 900_000;
/** One send over all partitions; far below the broker's `socket.request.max.bytes` (100 MiB). */
const MAX_SEND_BYTES = 8_000_000;
const MAX_SEND_MESSAGES = 20_000;
/** A single message above this is refused; with its headers it must stay below 1 MiB. */
const MAX_MESSAGE_BYTES = 950_000;
/** What can wait before callers are turned away: beyond it the brokers are too slow for the load. */
const MAX_WAITING_BYTES = 128_000_000;
/** Kafka's own overhead of a record: lengths, deltas, attributes. */
const RECORD_OVERHEAD_BYTES = 40;

interface Sized {
  message: BusMessage;
  bytes: number;
}

interface Call {
  messages: Sized[];
  bytes: number;
  /** Both by the monotonic clock. */
  startedAt: number;
  deadline: number;
  /** Called once: at the answer, or at the deadline. */
  settle: (error: SagaxError | null) => void;
  settled: boolean;
}

/** One broker round: what goes out together. */
export type Chunk = Sized[];

export class KafkaPublisher {
  readonly #kafka: Kafka;
  readonly #settings: KafkaSettings;
  readonly #topics: KnownTopics;
  #producer: Promise<Producer> | null = null;
  #waiting: Call[] = [];
  #waitingBytes = 0;
  #loop: Promise<void> | null = null;
  #closed = false;

  constructor(kafka: Kafka, settings: KafkaSettings, topics: KnownTopics) {
    this.#kafka = kafka;
    this.#settings = settings;
    this.#topics = topics;
  }

  async publish(messages: readonly BusMessage[]): Promise<void> {
    if (messages.length === 0) return;
    const startedAt = performance.now();
    const { publishTimeoutMs: timeoutMs, connections } = this.#settings;
    const deadline = startedAt + timeoutMs;
    const sized = messages.map((message) => ({ message, bytes: messageBytes(message) }));
    const bytes = sized.reduce((sum, item) => sum + item.bytes, 0);
    sized.forEach(refuseOversize);
    const unknown = this.#topics.unknownOf(messages);
    if (unknown.length > 0 && !this.#closed) {
      const found = Promise.all(unknown.map((topic) => this.#topics.find(topic)));
      await withDeadline(found, timeoutMs).catch((error: unknown) => {
        throw connections.failure(error, timeoutMs, startedAt);
      });
    }
    if (this.#closed) throw unavailable('this bus has been closed');
    if (this.#waitingBytes > 0 && this.#waitingBytes + bytes > MAX_WAITING_BYTES) {
      throw unavailable(`${this.#waitingBytes} bytes are waiting to be sent already`);
    }
    await new Promise<void>((resolve, reject) => {
      const call: Call = {
        messages: sized,
        bytes,
        startedAt,
        deadline,
        settled: false,
        settle: (error) => {
          if (call.settled) return;
          call.settled = true;
          clearTimeout(timer);
          if (error === null) resolve();
          else reject(error);
        },
      };
      const timer = setTimeout(
        () => call.settle(connections.late(timeoutMs, startedAt)),
        deadline - performance.now(),
      );
      this.#waiting.push(call);
      this.#waitingBytes += bytes;
      this.#loop ??= this.#run();
    });
  }

  /** Sends what waits, then lets go of the producer. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#loop;
    const producer = await this.#producer?.catch(() => null);
    await producer?.disconnect().catch(() => undefined);
  }

  async #run(): Promise<void> {
    // A microtask later, so that calls made in the same turn go out together.
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const gathered = this.#waiting;
      this.#waiting = [];
      const calls = gathered.filter((call) => !call.settled);
      if (calls.length > 0) {
        const error = await this.#sendAll(calls);
        if (error === null) settle(calls, null);
        else await this.#sendOneByOne(calls, error);
      }
      for (const call of gathered) this.#waitingBytes -= call.bytes;
    }
    this.#loop = null;
  }

  /** One call's bad message (a topic that is gone, too large for the broker) must not fail its neighbours. */
  async #sendOneByOne(calls: readonly Call[], error: SagaxError): Promise<void> {
    if (error.code === 'BUS_UNAVAILABLE') return settle(calls, error);
    // The topic that kafkajs misses may be one of an earlier send: it asks for all that its producer has had.
    const mayBeOthers = topicFaultOf(error.cause) === 'UNKNOWN_TOPIC_OR_PARTITION';
    if (calls.length === 1 && !mayBeOthers) return settle(calls, error);
    for (const call of calls) settle([call], await this.#sendAgain(call));
  }

  async #sendAgain(call: Call): Promise<SagaxError | null> {
    const { publishTimeoutMs, connections } = this.#settings;
    const unknown = this.#topics.unknownOf(call.messages.map(({ message }) => message));
    try {
      const looks = Promise.all(unknown.map((topic) => this.#topics.look(topic)));
      await withDeadline(looks, call.deadline - performance.now());
    } catch (error) {
      return connections.failure(error, publishTimeoutMs, call.startedAt);
    }
    return this.#sendAll([call]);
  }

  async #sendAll(calls: readonly Call[]): Promise<SagaxError | null> {
    const left = Math.max(...calls.map((call) => call.deadline)) - performance.now();
    const { publishTimeoutMs, connections } = this.#settings;
    const startedAt = Math.min(...calls.map((call) => call.startedAt));
    if (left <= 0) return connections.late(publishTimeoutMs, startedAt);
    const timer = new AbortController();
    try {
      await withDeadline(
        this.#sendChunks(splitMessages(calls.flatMap((call) => call.messages)), timer.signal),
        left,
        timer,
      );
      connections.proved();
      return null;
    } catch (error) {
      this.#dropProducer();
      return (
        tooLarge(error) ??
        this.#topicRefused(calls, error) ??
        connections.failure(error, publishTimeoutMs, startedAt)
      );
    }
  }

  #topicRefused(calls: readonly Call[], error: unknown): SagaxError | null {
    const fault = topicFaultOf(error);
    if (fault === null) return null;
    const topics = new Set(
      calls.flatMap(({ messages }) => messages.map(({ message }) => message.topic)),
    );
    this.#topics.forget(topics);
    return topicRefused([...topics], fault, error);
  }

  async #sendChunks(chunks: readonly Chunk[], signal: AbortSignal): Promise<void> {
    for (const chunk of chunks) {
      if (signal.aborted) return;
      this.#producer ??= this.#connect();
      const producer = await this.#producer;
      const byTopic = new Map<string, BusMessage[]>();
      for (const { message } of chunk) {
        const list = byTopic.get(message.topic);
        if (list === undefined) byTopic.set(message.topic, [message]);
        else list.push(message);
      }
      const answers = await producer.sendBatch({
        acks: -1,
        timeout: 5_000,
        compression: this.#settings.gzip ? CompressionTypes.GZIP : CompressionTypes.None,
        topicMessages: [...byTopic].map(([topic, messages]) => ({
          topic,
          messages: messages.map(({ key, value, headers, partition }) => ({
            key,
            value,
            headers,
            partition,
          })),
        })),
      });
      assertAllAnswered(chunk, answers);
    }
  }

  async #connect(): Promise<Producer> {
    const producer = this.#kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      createPartitioner: Partitioners.DefaultPartitioner,
    });
    await producer.connect();
    return producer;
  }

  #dropProducer(): void {
    const producer = this.#producer;
    this.#producer = null;
    producer?.then((gone) => gone.disconnect()).catch(() => undefined);
  }
}

/** In order; no chunk has more than MAX_PARTITION_BYTES for one partition or MAX_SEND_BYTES in all. */
export function splitMessages(messages: readonly Sized[]): Chunk[] {
  const chunks: Chunk[] = [];
  let chunk: Chunk = [];
  let bytes = 0;
  let perPartition = new Map<string, number>();
  for (const item of messages) {
    const partition = `${item.message.topic}/${item.message.partition}`;
    const before = perPartition.get(partition) ?? 0;
    const full =
      chunk.length >= MAX_SEND_MESSAGES ||
      (before > 0 && before + item.bytes > MAX_PARTITION_BYTES) ||
      (chunk.length > 0 && bytes + item.bytes > MAX_SEND_BYTES);
    if (full) {
      chunks.push(chunk);
      chunk = [];
      bytes = 0;
      perPartition = new Map();
    }
    chunk.push(item);
    bytes += item.bytes;
    perPartition.set(partition, (full ? 0 : before) + item.bytes);
  }
  if (chunk.length > 0) chunks.push(chunk);
  return chunks;
}

/** kafkajs leaves out, without a word, messages to a partition that the topic doesn't have. */
function assertAllAnswered(
  chunk: Chunk,
  answers: readonly { topicName: string; partition: number; errorCode: number }[],
): void {
  const stored = new Set(answers.map(({ topicName, partition }) => `${topicName}/${partition}`));
  for (const { message } of chunk) {
    if (stored.has(`${message.topic}/${message.partition}`)) continue;
    throw new SagaxError(
      'TOPOLOGY_MISMATCH',
      `Topic ${message.topic} has no partition ${message.partition}. Compare the partition count that ` +
        'this process was set up with to the topic.',
    );
  }
}

export function messageBytes(message: BusMessage): number {
  let bytes =
    RECORD_OVERHEAD_BYTES + Buffer.byteLength(message.key) + Buffer.byteLength(message.value);
  for (const name in message.headers) {
    bytes += name.length + Buffer.byteLength(message.headers[name] ?? '') + 4;
  }
  return bytes;
}

function refuseOversize({ message, bytes }: Sized): void {
  if (bytes <= MAX_MESSAGE_BYTES) return;
  throw new SagaxError(
    'PAYLOAD_REFUSED',
    `A message of ${bytes} bytes for ${message.topic} is over the limit of ${MAX_MESSAGE_BYTES}. Keep ` +
      'large payloads elsewhere and send a reference (claim check).',
  );
}

function settle(calls: readonly Call[], error: SagaxError | null): void {
  for (const call of calls) call.settle(error);
}

function tooLarge(error: unknown): SagaxError | null {
  const { type, cause } = error as { type?: string; cause?: { type?: string } };
  const said = type ?? cause?.type;
  if (said !== 'MESSAGE_TOO_LARGE' && said !== 'RECORD_LIST_TOO_LARGE') return null;
  return new SagaxError(
    'PAYLOAD_REFUSED',
    `The broker refused the messages as too large (${said}). Its message.max.bytes must be at least 1 MiB.`,
    { cause: error },
  );
}
