/**
 * The lasting state of the memory bus: topics, and consumer groups with their coordinator.
 *
 * Guards what a broker guards: order within a partition, gapless offsets, one assigned member per
 * partition, commits only from it. It outlives hosts; members of dead ones are put out of the group.
 */
import { SagaxError } from '../core/errors.ts';
import type { BusMessage, ReceivedMessage, TopicSpec } from '../ports.ts';

export interface TopicPartition {
  topic: string;
  partition: number;
}

export interface BrokerOptions {
  /** How long a silent process stays a member of its groups. Default 10 s, as with Kafka. */
  sessionTimeoutMs?: number;
  /**
   * How partitions are dealt out among members (in order of joining). Default: in turn. A simulation deals
   * by chance. @returns for each partition the index of its member
   */
  assign?: (partitions: readonly TopicPartition[], members: number) => number[];
}

interface Member {
  id: string;
  topics: readonly string[];
  /** Wakes the member's loop: its assignment has changed, or it has been put out. */
  changed: () => void;
}

interface Group {
  generation: number;
  /** In order of joining. */
  members: Map<string, Member>;
  /** Partition → member id. */
  owners: Map<string, string>;
  committed: Map<string, bigint>;
}

interface PartitionLog {
  messages: ReceivedMessage[];
  waiters: (() => void)[];
}

export class MemoryBroker {
  readonly sessionTimeoutMs: number;
  readonly #assign: NonNullable<BrokerOptions['assign']>;
  readonly #topics = new Map<string, PartitionLog[]>();
  readonly #groups = new Map<string, Group>();
  #nextMember = 1;

  constructor(options: BrokerOptions = {}) {
    this.sessionTimeoutMs = options.sessionTimeoutMs ?? 10_000;
    this.#assign =
      options.assign ?? ((partitions, members) => partitions.map((_, index) => index % members));
  }

  // -------------------------------------------------------------- topics

  /** @throws SagaxError TOPOLOGY_MISMATCH, nothing was created */
  ensureTopics(specs: readonly TopicSpec[]): void {
    for (const { topic, partitions } of specs) {
      const found = this.#topics.get(topic)?.length;
      if (found !== undefined && found !== partitions) {
        throw new SagaxError(
          'TOPOLOGY_MISMATCH',
          `Topic "${topic}" has ${found} partitions, not ${partitions}. Set the count that it was created with, or use another topic prefix.`,
        );
      }
    }
    for (const { topic, partitions } of specs) {
      if (this.#topics.has(topic)) continue;
      this.#topics.set(
        topic,
        Array.from({ length: partitions }, () => ({ messages: [], waiters: [] })),
      );
    }
    for (const group of this.#groups.values()) this.#rebalance(group);
  }

  /** Appends the messages, in their order. @throws SagaxError TOPOLOGY_MISMATCH for an unknown topic or partition, nothing was appended */
  append(messages: readonly BusMessage[]): void {
    const logs = messages.map((message) => this.#log(message));
    messages.forEach((message, index) => {
      const log = logs[index] as PartitionLog;
      log.messages.push({
        topic: message.topic,
        partition: message.partition,
        offset: BigInt(log.messages.length),
        key: message.key,
        headers: message.headers,
        value: message.value,
      });
    });
    for (const log of new Set(logs)) wake(log);
  }

  /** @throws SagaxError TOPOLOGY_MISMATCH for a partition that is not there */
  assertKnown(messages: readonly BusMessage[]): void {
    for (const message of messages) this.#log(message);
  }

  /** Appends one raw record, as a foreign producer could write it. */
  appendRaw(record: Omit<ReceivedMessage, 'offset'>): void {
    const log = this.#log(record);
    log.messages.push({ ...record, offset: BigInt(log.messages.length) });
    wake(log);
  }

  read(where: TopicPartition, offset: bigint, limit: number): ReceivedMessage[] {
    const from = Number(offset);
    return this.#log(where)
      .messages.slice(from, from + limit)
      .map((message) => ({ ...message, headers: { ...message.headers } }));
  }

  /** Calls `wakeUp` once, when the partition has a message at or behind `offset` (at once if it has). */
  onMessage(where: TopicPartition, offset: bigint, wakeUp: () => void): void {
    const log = this.#log(where);
    if (log.messages.length > Number(offset)) wakeUp();
    else log.waiters.push(wakeUp);
  }

  endOffsets(topic: string): Map<number, bigint> {
    const logs = this.#topics.get(topic);
    if (logs === undefined) throw unknownTopic(topic);
    return new Map(logs.map((log, partition) => [partition, BigInt(log.messages.length)]));
  }

  /** Every message of a topic, partition by partition: for checkers and tests. */
  record(topic: string): readonly ReceivedMessage[] {
    return (this.#topics.get(topic) ?? []).flatMap((log) => log.messages);
  }

  #log({ topic, partition }: TopicPartition): PartitionLog {
    const log = this.#topics.get(topic)?.[partition];
    if (log === undefined) throw unknownTopic(`${topic}/${partition}`);
    return log;
  }

  // -------------------------------------------------------------- groups

  /** @returns the new member's id */
  join(group: string, topics: readonly string[], changed: () => void): string {
    const found = this.#groups.get(group) ?? {
      generation: 0,
      members: new Map<string, Member>(),
      owners: new Map<string, string>(),
      committed: new Map<string, bigint>(),
    };
    this.#groups.set(group, found);
    const id = `${group}-${this.#nextMember++}`;
    found.members.set(id, { id, topics, changed });
    this.#rebalance(found);
    return id;
  }

  /** Takes a member out, because it leaves or has been silent for too long; its partitions go to the others. */
  leave(group: string, memberId: string): void {
    const found = this.#groups.get(group);
    const member = found?.members.get(memberId);
    if (found === undefined || member === undefined) return;
    found.members.delete(memberId);
    member.changed();
    this.#rebalance(found);
  }

  /** @returns the member's partitions, or null when it is no member any more and has to join again */
  assignment(group: string, memberId: string): TopicPartition[] | null {
    const found = this.#groups.get(group);
    if (found?.members.has(memberId) !== true) return null;
    return [...found.owners]
      .filter(([, owner]) => owner === memberId)
      .map(([key]) => parseKey(key));
  }

  committed(group: string, where: TopicPartition): bigint | null {
    return this.#groups.get(group)?.committed.get(keyOf(where)) ?? null;
  }

  /** @returns whether it was kept: only the partition's present member may commit */
  commit(group: string, memberId: string, where: TopicPartition, nextOffset: bigint): boolean {
    const found = this.#groups.get(group);
    if (found?.owners.get(keyOf(where)) !== memberId) return false;
    found.committed.set(keyOf(where), nextOffset);
    return true;
  }

  /** Deals all partitions of all groups out anew, as after a coordinator's failover. */
  rebalanceAll(): void {
    for (const group of this.#groups.values()) this.#rebalance(group);
  }

  #rebalance(group: Group): void {
    group.generation += 1;
    const before = group.owners;
    group.owners = new Map();
    const members = [...group.members.values()];
    for (const topic of new Set(members.flatMap((member) => member.topics))) {
      const takers = members.filter((member) => member.topics.includes(topic));
      const partitions = (this.#topics.get(topic) ?? []).map((_, partition) => ({
        topic,
        partition,
      }));
      const picks = this.#assign(partitions, takers.length);
      partitions.forEach((where, index) => {
        const taker = takers[(picks[index] ?? 0) % takers.length];
        if (taker !== undefined) group.owners.set(keyOf(where), taker.id);
      });
    }
    for (const member of members) {
      const changed = [...new Set([...before.keys(), ...group.owners.keys()])].some(
        (key) => (before.get(key) === member.id) !== (group.owners.get(key) === member.id),
      );
      if (changed) member.changed();
    }
  }
}

function wake(log: PartitionLog): void {
  const waiters = log.waiters;
  log.waiters = [];
  for (const waiter of waiters) waiter();
}

export function keyOf({ topic, partition }: TopicPartition): string {
  return `${partition}@${topic}`;
}

function parseKey(key: string): TopicPartition {
  const at = key.indexOf('@');
  return { topic: key.slice(at + 1), partition: Number(key.slice(0, at)) };
}

function unknownTopic(name: string): SagaxError {
  return new SagaxError(
    'TOPOLOGY_MISMATCH',
    `The bus has no "${name}"; create topics by ensureTopics first, and publish to the partitions that they have.`,
  );
}
