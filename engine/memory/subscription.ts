/**
 * One member of a consumer group: it joins, follows its assignment, and reads each partition by a loop.
 *
 * Guards order and back-pressure per partition, and that `onAssigned` comes before a partition's first
 * batch and never beside an `onRevoked` of the same partition. Driven by signals: an idle member costs nothing.
 */
import type { ReceivedMessage, SubscribeOptions, Subscription } from '../ports.ts';
import { keyOf, type MemoryBroker, type TopicPartition } from './broker.ts';
import { busUnavailable, type Host } from './host.ts';

interface Tuning {
  commitIntervalMs: number;
  retryPauseMs: number;
}

const DEFAULT_MAX_BATCH = 500;

export class MemorySubscription implements Subscription {
  readonly #broker: MemoryBroker;
  readonly #host: Host;
  readonly #options: SubscribeOptions;
  readonly #tuning: Tuning;
  readonly #readers = new Map<string, PartitionReader>();
  /** Per partition, the end of the last callback: the next one waits for it. */
  readonly #callbacks = new Map<string, Promise<void>>();
  readonly #pendingCommits = new Map<string, { where: TopicPartition; nextOffset: bigint }>();
  readonly #ready = gate();
  readonly #closed = gate();
  readonly #loop: Promise<void>;
  #flushIsDue = false;
  #memberId: string | null = null;
  #closing = false;
  #changed = gate();

  constructor(broker: MemoryBroker, host: Host, options: SubscribeOptions, tuning: Tuning) {
    this.#broker = broker;
    this.#host = host;
    this.#options = options;
    this.#tuning = tuning;
    host.onSilent(broker.sessionTimeoutMs, () => this.#putOut());
    this.#loop = this.#follow();
  }

  assigned(): TopicPartition[] {
    return [...this.#readers.values()].map((reader) => reader.where);
  }

  ready(): Promise<void> {
    return this.#ready.opened;
  }

  get closed(): Promise<void> {
    return this.#closed.opened;
  }

  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      this.#changed.open();
      await this.#loop;
      await Promise.all([...this.#readers.values()].map((reader) => reader.stop()));
      await Promise.all([...this.#readers.keys()].map((key) => this.#revoke(key)));
      await this.#flush();
      const memberId = this.#memberId;
      if (memberId !== null) {
        // The group gets over a member that could not say goodbye, so one try is enough.
        await this.#io('bus.leave', () => this.#broker.leave(this.#options.group, memberId)).catch(
          () => undefined,
        );
      }
      this.#ready.open();
      this.#closed.open();
    }
    await this.#closed.opened;
  }

  #io<T>(point: string, work: () => T): Promise<T> {
    return this.#host.io({ point, work, failure: () => busUnavailable(point) });
  }

  /** The process has been silent for the session's timeout: the coordinator gives its partitions away. */
  #putOut(): void {
    if (this.#memberId !== null) this.#broker.leave(this.#options.group, this.#memberId);
  }

  /** Joins, and takes on what the group says is ours each time that it has changed. */
  async #follow(): Promise<void> {
    while (!this.#closing) {
      const changed = this.#changed;
      try {
        const assignment = await this.#io('bus.assignment', () => this.#lookUp());
        if (this.#closing) return;
        this.#adopt(assignment);
      } catch {
        await this.#host.clock.sleep(this.#tuning.retryPauseMs);
        continue;
      }
      await changed.opened;
      if (this.#changed === changed) this.#changed = gate();
    }
  }

  #lookUp(): TopicPartition[] {
    const { group, topics } = this.#options;
    const known = this.#memberId === null ? null : this.#broker.assignment(group, this.#memberId);
    if (known !== null) return known;
    // A request that outlived its process: the coordinator would only put the member out again.
    if (!this.#host.alive) return [];
    this.#memberId = this.#broker.join(group, topics, () => {
      const changed = this.#changed;
      this.#changed = gate();
      changed.open();
    });
    return this.#broker.assignment(group, this.#memberId) ?? [];
  }

  #adopt(assignment: readonly TopicPartition[]): void {
    const wanted = new Map(assignment.map((where) => [keyOf(where), where]));
    for (const key of [...this.#readers.keys()]) {
      if (!wanted.has(key)) void this.#revoke(key);
    }
    const fresh = [...wanted].filter(([key]) => !this.#readers.has(key));
    for (const [key, where] of fresh) {
      const reader = new PartitionReader(where, {
        broker: this.#broker,
        host: this.#host,
        options: this.#options,
        tuning: this.#tuning,
        commit: (nextOffset) => this.#commit(where, nextOffset),
        begin: () => this.#begin(key, where),
      });
      this.#readers.set(key, reader);
    }
    if (this.#ready.isOpen) return;
    // Not waited for here: a partition that can't be opened may be taken away meanwhile.
    const started = [...this.#readers.values()].map((reader) => reader.started);
    void Promise.all(started).then(() => this.#ready.open());
  }

  /** `onAssigned`, then where to start. Behind the callbacks of the partition that are still under way. */
  #begin(key: string, where: TopicPartition): Promise<bigint> {
    const begun = this.#enqueue(key, async () => {
      const asked = await this.#options.onAssigned?.(where.topic, where.partition);
      if (asked !== undefined && asked !== null) return asked;
      const committed = await this.#io('bus.committed', () =>
        this.#broker.committed(this.#options.group, where),
      );
      return committed ?? 0n;
    });
    return begun;
  }

  async #revoke(key: string): Promise<void> {
    const reader = this.#readers.get(key);
    if (reader === undefined) return;
    this.#readers.delete(key);
    void reader.stop();
    const { topic, partition } = reader.where;
    await this.#enqueue(key, async () => {
      // A revocation can't be refused; what a consumer throws here is its own affair.
      await this.#options.onRevoked?.(topic, partition).catch(() => undefined);
    });
  }

  #enqueue<T>(key: string, run: () => Promise<T>): Promise<T> {
    const result = (this.#callbacks.get(key) ?? Promise.resolve()).then(run);
    this.#callbacks.set(
      key,
      result.then(
        () => undefined,
        () => undefined,
      ),
    );
    return result;
  }

  #commit(where: TopicPartition, nextOffset: bigint): void {
    if (!this.#host.alive) return;
    const key = keyOf(where);
    const pending = this.#pendingCommits.get(key);
    if (pending !== undefined && pending.nextOffset >= nextOffset) return;
    this.#pendingCommits.set(key, { where, nextOffset });
    if (this.#flushIsDue) return;
    this.#flushIsDue = true;
    void this.#flushLater();
  }

  async #flushLater(): Promise<void> {
    if (this.#tuning.commitIntervalMs > 0) {
      await this.#host.clock.sleep(this.#tuning.commitIntervalMs);
    }
    this.#flushIsDue = false;
    await this.#flush();
  }

  async #flush(): Promise<void> {
    if (this.#pendingCommits.size === 0) return;
    const commits = [...this.#pendingCommits.values()];
    this.#pendingCommits.clear();
    // A commit is a hint: what is lost here is read again.
    await this.#io('bus.commit', () => {
      for (const { where, nextOffset } of commits) {
        this.#broker.commit(this.#options.group, this.#memberId ?? '', where, nextOffset);
      }
    }).catch(() => undefined);
  }
}

interface ReaderDeps {
  broker: MemoryBroker;
  host: Host;
  options: SubscribeOptions;
  tuning: Tuning;
  commit: (nextOffset: bigint) => void;
  /** Tells the consumer that the partition is its own. @returns the offset to start from */
  begin: () => Promise<bigint>;
}

/** Reads one partition, batch after batch, until it is stopped. */
class PartitionReader {
  readonly where: TopicPartition;
  readonly #deps: ReaderDeps;
  readonly #startedGate = gate();
  readonly #loop: Promise<void>;
  #stopped = false;
  #wakeUp: () => void = () => undefined;

  constructor(where: TopicPartition, deps: ReaderDeps) {
    this.where = where;
    this.#deps = deps;
    this.#loop = this.#read();
  }

  get started(): Promise<void> {
    return this.#startedGate.opened;
  }

  /** Delivers no further batch. Resolves when a running one has ended. */
  stop(): Promise<void> {
    this.#stopped = true;
    this.#startedGate.open();
    this.#wakeUp();
    return this.#loop;
  }

  async #read(): Promise<void> {
    let position = await this.#start();
    while (!this.#stopped) {
      const messages = await this.#fetch(position);
      if (this.#stopped) return;
      if (messages.length === 0) {
        await this.#nextMessage(position);
        continue;
      }
      position = await this.#deliver(messages, position);
    }
  }

  async #start(): Promise<bigint> {
    while (!this.#stopped) {
      try {
        const offset = await this.#deps.begin();
        this.#startedGate.open();
        return offset;
      } catch {
        await this.#pause();
      }
    }
    return 0n;
  }

  async #fetch(position: bigint): Promise<readonly ReceivedMessage[]> {
    const { broker, host, options } = this.#deps;
    try {
      return await host.io({
        point: 'bus.fetch',
        work: () => broker.read(this.where, position, options.maxBatch ?? DEFAULT_MAX_BATCH),
        failure: () => busUnavailable('bus.fetch'),
      });
    } catch {
      await this.#pause();
      return [];
    }
  }

  /** @returns the offset to read from next */
  async #deliver(messages: readonly ReceivedMessage[], position: bigint): Promise<bigint> {
    const last = messages.at(-1);
    if (last === undefined) return position;
    try {
      const result = await this.#deps.options.onBatch({
        ...this.where,
        messages,
        commit: this.#deps.commit,
      });
      return result?.resumeAt ?? last.offset + 1n;
    } catch {
      await this.#pause();
      return position;
    }
  }

  async #pause(): Promise<void> {
    await this.#deps.host.clock.sleep(this.#deps.tuning.retryPauseMs);
  }

  #nextMessage(position: bigint): Promise<void> {
    return new Promise((resolve) => {
      this.#wakeUp = resolve;
      if (this.#stopped) resolve();
      else this.#deps.broker.onMessage(this.where, position, resolve);
    });
  }
}

interface Gate {
  readonly opened: Promise<void>;
  readonly isOpen: boolean;
  open: () => void;
}

function gate(): Gate {
  const { promise, resolve } = Promise.withResolvers<void>();
  const made = {
    opened: promise,
    isOpen: false,
    open: (): void => {
      made.isOpen = true;
      resolve();
    },
  };
  return made;
}
