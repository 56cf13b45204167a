/**
 * One engine node: holds the shards that the bus gives it, each under a lease with an epoch.
 *
 * Guards I2 from the owner's side: a shard is opened only after its epoch was bumped, and dropped with
 * all its memory when the fence says no. Any number of nodes may run; a node that dies is replaced by
 * whoever the bus gives its partitions to, one that drains gives them back at once.
 */
import type { decide } from '../core/decide.ts';
import type { AnyDefinition } from '../core/define.ts';
import { FencedError, SagaxError } from '../core/errors.ts';
import { topicNames } from '../core/wire.ts';
import type { Bus, BusBatch, Clock, EventLog, ShardLeases, Subscription } from '../ports.ts';
import { createRegistry, type Registry } from './registry.ts';
import { Shard, type LossReason } from './shard.ts';
import type { Topology } from './outbox.ts';
import { silentTelemetry, type Telemetry } from './telemetry.ts';

export interface EngineOptions {
  definitions: readonly AnyDefinition[];
  eventLog: EventLog;
  shardLeases: ShardLeases;
  bus: Bus;
  clock: Clock;
  /** The clock that a shard's timers go by, for a log over several databases. Default `clock`. */
  clockOf?: (shard: number) => Clock;
  topology: Topology;
  /** Names this process in leases, e.g. host and pid and a random part. */
  owner: string;
  telemetry?: Telemetry;
  /** How long a shard stays ours without renewal. Default 10 s. */
  leaseTtlMs?: number;
  /** Most live sagas kept in memory, over all shards. Default 20,000. */
  cacheCapacity?: number;
  /** The pure core; replaced only by the simulator's deliberate breaks. */
  decide?: typeof decide;
}

export interface Engine {
  readonly registry: Registry;
  /**
   * Creates missing topics, joins the group; resolves when the first assignment is open. A shard whose database
   * is away is not waited for: it opens when the database answers.
   */
  start(): Promise<void>;
  /** Ends running batches, gives all shards back, leaves the group. */
  drain(): Promise<void>;
  /** Shards that are open here now. */
  shards(): { shard: number; epoch: number; nextOffset: bigint; cachedSagas: number }[];
}

const DEFAULT_LEASE_TTL_MS = 10_000;
const DEFAULT_CACHE_CAPACITY = 20_000;
const OPEN_RETRY_MS = 250;
const LOSSES: { readonly [reason in LossReason]: string } = {
  fenced: 'another owner has the shard; all memory of it is dropped',
  unknown: 'the outcome of a commit is unknown; the shard is read anew',
  stale: 'the memory of a shard does not fit its log; it is read anew',
};
const nothing = (): void => undefined;

export function createEngine(options: EngineOptions): Engine {
  return new EngineNode(options);
}

class EngineNode implements Engine {
  readonly registry: Registry;
  readonly #options: EngineOptions;
  readonly #telemetry: Telemetry;
  readonly #leaseTtlMs: number;
  readonly #shards = new Map<number, Shard>();
  /** Shards that the bus has given us and not taken away. */
  readonly #assigned = new Set<number>();
  /** Per shard the end of its last opening or closing: the next one waits for it. */
  readonly #turns = new Map<number, Promise<void>>();
  /** Lost shards that are tried again until they are ours or the bus takes them away. */
  readonly #recovering = new Set<number>();
  /** Resolves when a shard could not be taken since its database is away. */
  readonly #databaseAway = Promise.withResolvers<void>();
  /** No shard is opened any more. */
  readonly #draining = new AbortController();
  /** Leases are not renewed any more. */
  readonly #stop = new AbortController();
  #subscription: Subscription | null = null;
  #renewals: Promise<void> | null = null;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.registry = createRegistry(options.definitions);
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#leaseTtlMs = options.leaseTtlMs ?? DEFAULT_LEASE_TTL_MS;
  }

  async start(): Promise<void> {
    const { bus, topology, shardLeases } = this.#options;
    const topics = topicNames(topology.topicPrefix);
    await bus.ensureTopics([
      { topic: topics.inbox, partitions: shardLeases.shardCount },
      { topic: topics.domainEvents, partitions: topology.commandPartitions },
      ...this.registry.services().map((service) => ({
        topic: topics.commands(service),
        partitions: topology.commandPartitions,
      })),
    ]);
    this.#renewals = this.#renew();
    this.#subscription = bus.subscribe({
      group: `${topology.topicPrefix}.engine`,
      topics: [topics.inbox],
      onAssigned: (_, partition) => this.#take(partition),
      onRevoked: (_, partition) => this.#giveBack(partition),
      onBatch: (batch) => this.#handle(batch),
    });
    await Promise.race([this.#subscription.ready(), this.#databaseAway.promise]);
  }

  async drain(): Promise<void> {
    this.#draining.abort();
    const giveBackAll = async (): Promise<void> => {
      await Promise.all([...this.#shards.keys()].map((shard) => this.#giveBack(shard)));
    };
    // Both at once: the subscription waits for running batches, and one that waits for a database or a bus
    // that is away ends only because its shard is closed.
    await Promise.all([this.#subscription?.close(), giveBackAll()]);
    await giveBackAll();
    this.#stop.abort();
    await this.#renewals;
  }

  shards(): { shard: number; epoch: number; nextOffset: bigint; cachedSagas: number }[] {
    return [...this.#shards.values()].map((shard) => ({
      shard: shard.number,
      epoch: shard.epoch,
      nextOffset: shard.nextOffset,
      cachedSagas: shard.cachedSagas,
    }));
  }

  /**
   * The bus says that a partition is ours: take its shard from whoever had it. One attempt: the bus makes the next one,
   * since only between two of them can it tell us that the partition is another's by now.
   * @returns where to read on
   */
  async #take(number: number): Promise<bigint | null> {
    this.#assigned.add(number);
    if (!this.#mayHold(number)) return null;
    try {
      const shard = await this.#inTurn(number, () => this.#open(number, true));
      if (shard === null) return null;
      await this.#checkInbox(number, shard.nextOffset);
      return shard.nextOffset;
    } catch (error) {
      if (error instanceof SagaxError && error.code === 'DATABASE_UNAVAILABLE') {
        this.#databaseAway.resolve();
      }
      this.#telemetry.log.error(
        { shard: number, err: error },
        'a shard could not be taken; it is tried again',
      );
      throw error;
    }
  }

  /**
   * An inbox that ends below our offset is not the one whose messages were applied. What comes into it would be
   * dropped as applied before, though it was accepted (I4): better that nothing is read.
   */
  async #checkInbox(number: number, nextOffset: bigint): Promise<void> {
    const { bus, topology } = this.#options;
    const { inbox } = topicNames(topology.topicPrefix);
    let ends: Map<number, bigint>;
    try {
      ends = await bus.endOffsets(inbox);
    } catch (error) {
      this.#telemetry.log.warn({ shard: number, err: error }, "the inbox's end could not be read");
      return;
    }
    const end = ends.get(number);
    if (end === undefined || end >= nextOffset) return;
    throw new SagaxError(
      'TOPOLOGY_MISMATCH',
      `Partition ${number} of topic "${inbox}" ends at offset ${end}, but the event log has applied all below ${nextOffset}: ` +
        'the topic was deleted, cut, or is another one than before. Use the topic prefix that this database was run ' +
        'with, or restore the topic. If its messages are gone for good, stop all engines and set next_offset in ' +
        `sagax.shard_positions for shard ${number}: to 0 if the topic was made anew, since what it holds has not been ` +
        `applied, or to ${end} if it only lost its end.`,
    );
  }

  #mayHold(number: number): boolean {
    return this.#assigned.has(number) && !this.#draining.signal.aborted;
  }

  /** Two openings of one shard side by side would leave one of them behind, unseen and never closed. */
  #inTurn<T>(number: number, work: () => Promise<T>): Promise<T> {
    const result = (this.#turns.get(number) ?? Promise.resolve()).then(work);
    const ended = result.then(nothing, nothing);
    this.#turns.set(number, ended);
    void ended.then(() => {
      if (this.#turns.get(number) === ended) this.#turns.delete(number);
    });
    return result;
  }

  /** @returns null when another's lease is live, or the shard was taken away meanwhile */
  async #open(number: number, steal: boolean): Promise<Shard | null> {
    const { shardLeases, owner, cacheCapacity, clock, clockOf } = this.#options;
    const before = this.#shards.get(number);
    this.#shards.delete(number);
    await before?.close();
    const lease = await shardLeases.acquire(number, owner, this.#leaseTtlMs, { steal });
    if (lease === null) return null;
    const shard = new Shard(
      {
        ...this.#options,
        clock: clockOf?.(number) ?? clock,
        registry: this.registry,
        telemetry: this.#telemetry,
        shardCount: shardLeases.shardCount,
        cacheCapacity: Math.max(
          100,
          Math.ceil((cacheCapacity ?? DEFAULT_CACHE_CAPACITY) / shardLeases.shardCount),
        ),
      },
      lease,
      (reason) => this.#lost(shard, reason),
    );
    // Kept though it was taken away meanwhile, it would be renewed for ever, and its new owner, who may be
    // waiting for a free lease, would never get it.
    if (!this.#mayHold(number)) {
      await this.#release(shard);
      return null;
    }
    this.#shards.set(number, shard);
    shard.open();
    this.#telemetry.count('shards_taken_total');
    this.#telemetry.log.info(
      { shard: number, epoch: lease.epoch, nextOffset: String(lease.nextOffset) },
      'a shard is ours',
    );
    return shard;
  }

  #lost(shard: Shard, reason: LossReason): void {
    this.#telemetry.log.warn({ shard: shard.number, epoch: shard.epoch, reason }, LOSSES[reason]);
    if (this.#shards.get(shard.number) === shard) this.#shards.delete(shard.number);
    void this.#recover(shard.number);
  }

  /**
   * Tries to get a lost shard back for as long as the bus gives us its partition. Left to the next message,
   * its timers and what it has to publish would stand still until one comes (I10, I12).
   */
  async #recover(number: number): Promise<void> {
    if (this.#recovering.has(number)) return;
    this.#recovering.add(number);
    while (this.#mayHold(number) && !this.#shards.has(number)) {
      let pauseMs = this.#leaseTtlMs / 3;
      try {
        // One that is lost again at once is seen after the pause: it must not be opened in a busy loop.
        if ((await this.#reopen(number)) !== null) pauseMs = OPEN_RETRY_MS;
      } catch (error) {
        this.#telemetry.log.warn(
          { shard: number, err: error },
          'a lost shard could not be opened; it is tried again',
        );
      }
      await this.#options.clock.sleep(pauseMs, this.#draining.signal);
    }
    this.#recovering.delete(number);
  }

  async #giveBack(number: number): Promise<void> {
    this.#assigned.delete(number);
    const shard = this.#shards.get(number);
    if (shard === undefined) return;
    this.#shards.delete(number);
    await this.#inTurn(number, () => this.#release(shard));
  }

  async #release(shard: Shard): Promise<void> {
    await shard.close();
    try {
      await this.#options.shardLeases.release(shard.number, this.#options.owner, shard.epoch);
    } catch (error) {
      this.#telemetry.log.warn(
        { shard: shard.number, err: error },
        'a lease could not be given back; it runs out by itself',
      );
    }
  }

  async #handle(batch: BusBatch): Promise<void | { resumeAt: bigint }> {
    const shard = this.#shards.get(batch.partition) ?? (await this.#retake(batch.partition));
    const resume = await shard.handle(batch.messages);
    if (resume !== undefined) return resume;
    batch.commit(shard.nextOffset);
  }

  /**
   * Lost, though the bus still gives us the partition. If another owner has it, the bus will tell us so
   * in a while: it isn't fought for, only taken once its lease is free.
   */
  async #retake(number: number): Promise<Shard> {
    const shard = await this.#reopen(number);
    if (shard === null) throw new FencedError(`Shard ${number} has another owner.`);
    return shard;
  }

  /** Never steals: after a commit of unknown outcome the lease is our own, or somebody has taken it with right. */
  #reopen(number: number): Promise<Shard | null> {
    return this.#inTurn(number, async () => {
      if (!this.#mayHold(number)) return null;
      return this.#shards.get(number) ?? this.#open(number, false);
    });
  }

  async #renew(): Promise<void> {
    const { clock, shardLeases, owner } = this.#options;
    for (;;) {
      await clock.sleep(this.#leaseTtlMs / 3, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      const held = [...this.#shards.values()].map(({ number, epoch }) => ({
        shard: number,
        epoch,
      }));
      if (held.length === 0) continue;
      try {
        const lost = new Set(await shardLeases.renew(owner, held, this.#leaseTtlMs));
        for (const { shard: number, epoch } of held) {
          const shard = this.#shards.get(number);
          // Not waited for: its end must not hold up the renewal of the others.
          if (lost.has(number) && shard?.epoch === epoch) shard.lose('fenced');
        }
      } catch (error) {
        this.#telemetry.log.warn({ err: error }, 'leases could not be renewed; it is tried again');
      }
    }
  }
}
