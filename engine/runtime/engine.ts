/**
 * One engine node: holds the shards that the bus gives it, each under a lease with an epoch.
 *
 * Guards I2 from the owner's side: a shard is opened only after its epoch was bumped, and dropped with
 * all its memory when the fence says no. Any number of nodes may run; a node that dies is replaced by
 * whoever the bus gives its partitions to, one that drains gives them back at once.
 */
import type { decide } from '../core/decide.ts';
import type { AnyDefinition } from '../core/define.ts';
import { FencedError } from '../core/errors.ts';
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
  /** Creates missing topics, joins the group; resolves when the first assignment is open. */
  start(): Promise<void>;
  /** Ends running batches, gives all shards back, leaves the group. */
  drain(): Promise<void>;
  /** Shards that are open here now. */
  shards(): { shard: number; epoch: number; nextOffset: bigint; cachedSagas: number }[];
}

const DEFAULT_LEASE_TTL_MS = 10_000;
const DEFAULT_CACHE_CAPACITY = 20_000;
const OPEN_RETRY_MS = 250;

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
  /** Shards whose last commit has an unknown outcome: the live lease on them is our own. */
  readonly #unknown = new Set<number>();
  /** Lost shards that are being opened again; a shard has one such opening at a time. */
  readonly #reopening = new Map<number, Promise<Shard | null>>();
  /** Lost shards that are tried again until they are ours or the bus takes them away. */
  readonly #recovering = new Set<number>();
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
    await this.#subscription.ready();
  }

  async drain(): Promise<void> {
    await this.#subscription?.close();
    this.#stop.abort();
    await Promise.all([...this.#shards.keys()].map((shard) => this.#giveBack(shard)));
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

  /** The bus says that a partition is ours: take its shard from whoever had it. @returns where to read on */
  async #take(number: number): Promise<bigint | null> {
    this.#assigned.add(number);
    for (;;) {
      try {
        await this.#reopening.get(number)?.catch(() => null);
        const shard = await this.#open(number, true);
        if (shard !== null && this.#assigned.has(number)) return shard.nextOffset;
        // Taken away again while it was being opened.
        if (shard !== null) await this.#giveBack(number);
      } catch (error) {
        this.#telemetry.log.warn(
          { shard: number, err: error },
          'a shard could not be taken; it is tried again',
        );
      }
      if (this.#stop.signal.aborted || !this.#assigned.has(number)) return null;
      await this.#options.clock.sleep(OPEN_RETRY_MS, this.#stop.signal);
    }
  }

  async #open(number: number, steal: boolean): Promise<Shard | null> {
    const { shardLeases, owner, cacheCapacity } = this.#options;
    const before = this.#shards.get(number);
    if (before !== undefined) await before.close();
    this.#shards.delete(number);
    const lease = await shardLeases.acquire(number, owner, this.#leaseTtlMs, { steal });
    if (lease === null) return null;
    const shard = new Shard(
      {
        ...this.#options,
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
    try {
      await shard.open();
    } catch (error) {
      await shard.close();
      throw error;
    }
    this.#shards.set(number, shard);
    this.#telemetry.count('shards_taken_total');
    this.#telemetry.log.info(
      { shard: number, epoch: lease.epoch, nextOffset: String(lease.nextOffset) },
      'a shard is ours',
    );
    return shard;
  }

  #lost(shard: Shard, reason: LossReason): void {
    this.#telemetry.log.warn(
      { shard: shard.number, epoch: shard.epoch, reason },
      reason === 'fenced'
        ? 'another owner has the shard; all memory of it is dropped'
        : 'the outcome of a commit is unknown; the shard is read anew',
    );
    if (reason === 'unknown') this.#unknown.add(shard.number);
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
    while (this.#isWanted(number)) {
      try {
        if ((await this.#reopen(number)) !== null) break;
      } catch (error) {
        this.#telemetry.log.warn(
          { shard: number, err: error },
          'a lost shard could not be opened; it is tried again',
        );
      }
      await this.#options.clock.sleep(this.#leaseTtlMs / 3, this.#stop.signal);
    }
    this.#recovering.delete(number);
  }

  #isWanted(number: number): boolean {
    return this.#assigned.has(number) && !this.#shards.has(number) && !this.#stop.signal.aborted;
  }

  async #giveBack(number: number): Promise<void> {
    this.#assigned.delete(number);
    const shard = this.#shards.get(number);
    if (shard === undefined) return;
    this.#shards.delete(number);
    await shard.close();
    try {
      await this.#options.shardLeases.release(number, this.#options.owner, shard.epoch);
    } catch (error) {
      this.#telemetry.log.warn(
        { shard: number, err: error },
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
    const shard = this.#assigned.has(number) ? await this.#reopen(number) : null;
    if (shard === null) throw new FencedError(`Shard ${number} has another owner.`);
    return shard;
  }

  #reopen(number: number): Promise<Shard | null> {
    const running = this.#reopening.get(number);
    if (running !== undefined) return running;
    const opening = this.#openLost(number).finally(() => this.#reopening.delete(number));
    this.#reopening.set(number, opening);
    return opening;
  }

  async #openLost(number: number): Promise<Shard | null> {
    const shard = await this.#open(number, this.#unknown.has(number));
    this.#unknown.delete(number);
    if (shard === null || this.#assigned.has(number)) return shard;
    // Taken away while it was being opened. Kept, it would be renewed for ever, and the new owner, who
    // waits for a free lease, would never get it.
    await this.#giveBack(number);
    return null;
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
          if (lost.has(number) && shard?.epoch === epoch) {
            this.#lost(shard, 'fenced');
            await shard.close();
          }
        }
      } catch (error) {
        this.#telemetry.log.warn({ err: error }, 'leases could not be renewed; it is tried again');
      }
    }
  }
}
