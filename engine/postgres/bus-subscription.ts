/**
 * A member of a consumer group on the Postgres bus: takes its share of partitions, gives back what is over.
 *
 * Guards that two members never both read a partition while their leases hold: what is over the share is
 * handed over only after its batch has ended and `onRevoked` is done; what was lost is dropped at once.
 */
import type { SubscribeOptions, Subscription } from '../ports.ts';
import {
  heldKey,
  quota,
  type BusGroups,
  type GroupView,
  type Held,
  type Taken,
} from './bus-groups.ts';
import { BusLane } from './bus-lane.ts';
import type { BusLog } from './bus-log.ts';
import type { BusTopics } from './bus-topics.ts';
import { sleep } from './clock.ts';

const DEFAULT_MAX_BATCH = 500;
const OPEN_RETRY_PAUSE_MS = 500;

export interface SubscriptionHost {
  topics: BusTopics;
  groups: BusGroups;
  log: BusLog;
  /** A lane has room for messages. */
  wakePoller(): void;
  /** Partitions came free: whoever of this process could take them looks at once. */
  membershipChanged(): void;
  /** The subscription is closed. */
  closed(subscription: PostgresSubscription): void;
}

interface Place {
  topic: string;
  partition: number;
}

export class PostgresSubscription implements Subscription {
  readonly group: string;
  readonly member: string;
  readonly #host: SubscriptionHost;
  readonly #options: SubscribeOptions;
  readonly #lanes = new Map<number, BusLane>();
  /** Lanes that were given up and still hold their lease, until their work is over. */
  readonly #leaving = new Map<number, BusLane>();
  /** Per partition: what must be over before it may be opened again. */
  readonly #tails = new Map<number, Promise<void>>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #stop = new AbortController();
  #places: Map<number, Place> | null = null;
  #closing: Promise<void> | null = null;

  constructor(member: string, options: SubscribeOptions, host: SubscriptionHost) {
    this.group = options.group;
    this.member = member;
    this.#options = options;
    this.#host = host;
  }

  assigned(): { topic: string; partition: number }[] {
    return this.lanes().map(({ options: { topic, partition } }) => ({ topic, partition }));
  }

  ready(): Promise<void> {
    return this.#ready.promise;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  lanes(): BusLane[] {
    return [...this.#lanes.values()];
  }

  /** What this member holds a lease on, with what its batches said is done. */
  held(): Held[] {
    return [...this.#lanes.values(), ...this.#leaving.values()].map((lane) => this.#heldOf(lane));
  }

  /**
   * Finds the topics and lets the group know their partitions.
   * @returns false while a topic is missing: it is looked for again
   */
  async register(): Promise<boolean> {
    if (this.#places !== null) return true;
    const places = new Map<number, Place>();
    for (const topic of this.#options.topics) {
      const ids = await this.#host.topics.ids(topic);
      if (ids.length === 0) {
        this.#host.log.warn({ group: this.group, topic }, 'the topic is not there yet');
        return false;
      }
      ids.forEach((id, partition) => places.set(id, { topic, partition }));
    }
    await this.#host.groups.register(this.group, [...places.keys()]);
    this.#places = places;
    return true;
  }

  /** Drops what a renewal found to be another's by now. */
  dropLost(renewed: ReadonlySet<string>, asked: readonly Held[]): void {
    for (const held of asked) {
      if (held.group !== this.group || renewed.has(heldKey(held))) continue;
      const lane = this.#lanes.get(held.partitionId);
      if (lane === undefined || lane.options.epoch !== held.epoch) continue;
      this.#host.log.warn(
        { group: this.group, ...place(lane) },
        'the lease on a partition was lost',
      );
      this.#lanes.delete(held.partitionId);
      lane.close();
      void this.#revoke(lane);
    }
  }

  /** Gives back or takes partitions until this member has its share. */
  async rebalance(view: GroupView): Promise<void> {
    const places = this.#places;
    if (places === null || this.#stop.signal.aborted) return;
    const share = quota(places.size, view.members, this.member);
    const over = this.lanes().slice(share);
    for (const lane of over) void this.#giveUp(lane);
    const room = share - this.#lanes.size;
    if (room > 0 && view.free) {
      const taken = await this.#host.groups.take(this.group, this.member, [...places.keys()], room);
      await this.#takeIn(taken, places);
    } else if (view.members.includes(this.member)) {
      this.#ready.resolve();
    }
  }

  async #takeIn(taken: readonly Taken[], places: ReadonlyMap<number, Place>): Promise<void> {
    const openings: Promise<void>[] = [];
    for (const item of taken) {
      const lane = this.#makeLane(item, places.get(item.partitionId) as Place);
      if (this.#stop.signal.aborted) {
        // Closed while the statement was under way: nobody has heard of the partition yet.
        await this.#host.groups.release([this.#heldOf(lane)]);
        continue;
      }
      this.#lanes.set(item.partitionId, lane);
      const opening = this.#open(lane);
      this.#addTail(item.partitionId, opening);
      openings.push(opening);
    }
    void Promise.all(openings).then(() => this.#ready.resolve());
  }

  #makeLane(taken: Taken, { topic, partition }: Place): BusLane {
    const { onBatch, maxBatch = DEFAULT_MAX_BATCH } = this.#options;
    const { group } = this;
    return new BusLane({
      ...taken,
      topic,
      partition,
      onBatch,
      maxBatch,
      hasRoom: () => this.#host.wakePoller(),
      batchFailed: (err, pause_ms) =>
        this.#host.log.warn(
          { group, topic, partition, err, pause_ms },
          'onBatch failed; it comes again',
        ),
    });
  }

  async #open(lane: BusLane): Promise<void> {
    await this.#tails.get(lane.options.partitionId);
    while (!lane.closed) {
      try {
        const { topic, partition } = lane.options;
        const start = (await this.#options.onAssigned?.(topic, partition)) ?? null;
        if (!lane.closed) lane.open(start);
        return;
      } catch (err) {
        this.#host.log.warn({ group: this.group, ...place(lane), err }, 'onAssigned failed');
        await sleep(OPEN_RETRY_PAUSE_MS, this.#stop.signal);
      }
    }
  }

  /** Orderly: the batch ends, `onRevoked` is done, then the lease is given back. */
  async #giveUp(lane: BusLane): Promise<void> {
    const { partitionId } = lane.options;
    this.#lanes.delete(partitionId);
    this.#leaving.set(partitionId, lane);
    lane.close();
    try {
      await this.#revoke(lane);
      await this.#host.groups.release([this.#heldOf(lane)]);
    } catch (err) {
      this.#host.log.warn(
        { group: this.group, ...place(lane), err },
        'a partition was not released',
      );
    } finally {
      // Not released means not renewed from here on: its lease runs out.
      this.#leaving.delete(partitionId);
    }
    this.#host.membershipChanged();
  }

  /** `onRevoked` waits for a running `onAssigned`, and for no batch; the partition opens again when all of it is over. */
  #revoke(lane: BusLane): Promise<void> {
    const { partitionId, topic, partition } = lane.options;
    const opening = this.#tails.get(partitionId);
    const revoked = (async () => {
      await opening;
      await this.#options.onRevoked?.(topic, partition);
    })().catch((err: unknown) =>
      this.#host.log.warn({ group: this.group, topic, partition, err }, 'onRevoked failed'),
    );
    const tail = Promise.all([revoked, lane.idle()]).then(() => undefined);
    this.#addTail(partitionId, tail);
    return tail;
  }

  #addTail(partitionId: number, tail: Promise<void>): void {
    this.#tails.set(partitionId, tail);
    void tail.finally(() => {
      if (this.#tails.get(partitionId) === tail) this.#tails.delete(partitionId);
    });
  }

  async #close(): Promise<void> {
    this.#stop.abort();
    const lanes = this.lanes();
    lanes.forEach((lane) => lane.close());
    await Promise.all(lanes.map((lane) => lane.idle()));
    this.#lanes.clear();
    // Until they are released they are still renewed, however long `onRevoked` takes.
    for (const lane of lanes) this.#leaving.set(lane.options.partitionId, lane);
    await Promise.all(lanes.map((lane) => this.#revoke(lane)));
    await Promise.all(this.#tails.values());
    try {
      await this.#host.groups.release(lanes.map((lane) => this.#heldOf(lane)));
      await this.#host.groups.leave(this.group, this.member);
    } catch (err) {
      this.#host.log.warn(
        { group: this.group, err },
        'leaving the group failed; its leases run out',
      );
    }
    this.#leaving.clear();
    this.#ready.resolve();
    this.#host.closed(this);
    this.#host.membershipChanged();
  }

  #heldOf({ options, toCommit }: BusLane): Held {
    const { partitionId, epoch } = options;
    return { group: this.group, partitionId, epoch, commit: toCommit };
  }
}

function place({ options: { topic, partition } }: BusLane): Place {
  return { topic, partition };
}
