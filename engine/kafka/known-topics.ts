/**
 * Which topics there are, as far as this process has looked.
 *
 * Guards that a topic which isn't there is met before its messages stand among others': all publish by one
 * producer, and kafkajs tries a send that names such a topic for five seconds, and everything with it.
 * Who asks for a topic names it, so that anybody's command can name any (`replyTo`).
 */
import { SagaxError } from '../core/errors.ts';
import type { TopicFault } from './failures.ts';

/** Brokers say for a moment that a topic isn't there which was just made. As long as kafkajs tries a send. */
const PATIENCE_MS = 5_000;
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 1_000;
/** Names that were looked for in vain and are remembered; they are anybody's choice. */
const MAX_MISSED = 1_000;
/** As Kafka has it. Others can't even be asked for: a long one does not fit into a request. */
const LEGAL_NAME = /^[a-zA-Z0-9._-]{1,249}$/;

export class KnownTopics {
  readonly #ask: (topic: string) => Promise<TopicFault | null>;
  readonly #patienceMs: number;
  readonly #there = new Set<string>();
  /** They have had their patience, and are looked for once each time. */
  readonly #missed = new Set<string>();
  readonly #searches = new Map<string, Promise<void>>();

  /**
   * @param ask what the brokers say of a topic
   * @param limitMs what a publication has in all: half of it may go by with looking
   */
  constructor(ask: (topic: string) => Promise<TopicFault | null>, limitMs: number) {
    this.#ask = ask;
    this.#patienceMs = Math.min(PATIENCE_MS, limitMs / 2);
  }

  add(topics: Iterable<string>): void {
    for (const topic of topics) this.#there.add(topic);
  }

  /** They were there, and a send says otherwise. */
  forget(topics: Iterable<string>): void {
    for (const topic of topics) this.#there.delete(topic);
  }

  /** Those that are still to be looked for, each once. */
  unknownOf(messages: readonly { topic: string }[]): string[] {
    let unknown: Set<string> | null = null;
    for (const { topic } of messages) {
      if (!this.#there.has(topic)) (unknown ??= new Set()).add(topic);
    }
    return unknown === null ? [] : [...unknown];
  }

  /** Looks for it, as long as it may be about to appear. @throws SagaxError TOPOLOGY_MISMATCH, CONFIG_INVALID, BUS_UNAVAILABLE */
  find(topic: string): Promise<void> {
    const running = this.#searches.get(topic);
    if (running !== undefined) return running;
    const search = this.#search(topic).finally(() => this.#searches.delete(topic));
    this.#searches.set(topic, search);
    return search;
  }

  /** Looks for it once. @throws as `find` */
  async look(topic: string): Promise<void> {
    const fault = await this.#faultOf(topic);
    if (fault !== null) throw topicRefused([topic], fault);
  }

  async #search(topic: string): Promise<void> {
    const giveUpAt = performance.now() + (this.#missed.has(topic) ? 0 : this.#patienceMs);
    for (let pauseMs = PAUSE_MIN_MS; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS)) {
      const fault = await this.#faultOf(topic);
      if (fault === null) return;
      if (fault !== 'UNKNOWN_TOPIC_OR_PARTITION' || performance.now() + pauseMs > giveUpAt) {
        if (this.#missed.size >= MAX_MISSED) this.#missed.clear();
        this.#missed.add(topic);
        throw topicRefused([topic], fault);
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  async #faultOf(topic: string): Promise<TopicFault | null> {
    const fault = LEGAL_NAME.test(topic) ? await this.#ask(topic) : 'INVALID_TOPIC_EXCEPTION';
    if (fault !== null) return fault;
    this.#there.add(topic);
    this.#missed.delete(topic);
    return null;
  }
}

/** What a publication says of topics of which one is at fault. */
export function topicRefused(
  topics: readonly string[],
  fault: TopicFault,
  cause?: unknown,
): SagaxError {
  const names = topics.map((topic) => `"${topic.slice(0, 249)}"`).join(' or ');
  switch (fault) {
    case 'UNKNOWN_TOPIC_OR_PARTITION':
      return new SagaxError(
        'TOPOLOGY_MISMATCH',
        `Kafka has no topic ${names}. Make it with ensureTopics first, or mend who names it.`,
        { cause },
      );
    case 'INVALID_TOPIC_EXCEPTION':
      return new SagaxError(
        'TOPOLOGY_MISMATCH',
        `Kafka takes no messages for a topic ${names}. Mend who names it.`,
        { cause },
      );
    case 'TOPIC_AUTHORIZATION_FAILED':
      return new SagaxError(
        'CONFIG_INVALID',
        `Kafka does not let this login write to ${names}. Give it the rights DESCRIBE and WRITE on the topic.`,
        { cause },
      );
  }
}
