/**
 * The bus on Postgres, for deployments that run no Kafka: the same port, the same promises.
 *
 * Guards the port's words (`ports.ts`): durable on return, order per partition, at least once. Uses no
 * NOTIFY, which would serialise commits; a process reads at once what it published itself, and looks
 * for what others did, sooner when they ring (`bus-bells.ts`). Tables and the order of locks: `schema/0002_bus.sql`.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { SagaxError } from '../core/errors.ts';
import type {
  Bus,
  BusMessage,
  CommitShare,
  DatabasePlace,
  SubscribeOptions,
  Subscription,
  TopicSpec,
} from '../ports.ts';
import { BusBells } from './bus-bells.ts';
import { BusBeside } from './bus-beside.ts';
import { BusGroups } from './bus-groups.ts';
import { SILENT_LOG, type BusLog } from './bus-log.ts';
import { BusMembership } from './bus-membership.ts';
import { delist, enlist, handOn, tellMembers, type Neighbour } from './bus-neighbours.ts';
import type { Committed } from './bus-offsets.ts';
import { BusPoller } from './bus-poller.ts';
import { PostgresPublisher, toBusError, unavailable } from './bus-publisher.ts';
import { PostgresSubscription } from './bus-subscription.ts';
import { BusTopics } from './bus-topics.ts';
import { forgetGroup, trimBus } from './bus-trim.ts';
import { createPool, Database } from './pool.ts';

export interface PostgresBusOptions {
  /** The database, migrated (`migrate`). */
  url: string;
  /** Connections of its own. Default 4: publishing, membership, reading, and a look beside it. */
  maxConnections?: number;
  /** Time a `publish` has. Default 10 s. */
  publishTimeoutMs?: number;
  /** A member that is silent for this long loses its partitions. Default 5 s. */
  leaseMs?: number;
  log?: BusLog;
}

export interface PostgresBus extends Bus {
  readonly kind: 'postgres';
  /**
   * Maintenance: deletes what every group has done, at most `limit` messages. Call it now and then.
   * @returns how many were deleted; `limit` means that there may be more
   */
  trim(limit?: number): Promise<number>;
  /** Forgets a consumer group that will not come back. @returns false when it has live members. */
  forgetGroup(group: string): Promise<boolean>;
}

/** Nothing is connected before the first call. */
export function createPostgresBus(options: PostgresBusOptions): PostgresBus {
  return new PostgresBusAdapter(options);
}

class PostgresBusAdapter implements PostgresBus, Neighbour {
  readonly kind = 'postgres';
  readonly #url: string;
  readonly #database: Database;
  readonly #topics: BusTopics;
  readonly #groups: BusGroups;
  readonly #publisher: PostgresPublisher;
  readonly #poller: BusPoller;
  readonly #bells: BusBells;
  readonly #membership: BusMembership;
  readonly #log: BusLog;
  readonly #subscriptions = new Set<PostgresSubscription>();
  #closing: Promise<void> | null = null;

  constructor(options: PostgresBusOptions) {
    const leaseMs = options.leaseMs ?? 5_000;
    this.#log = options.log ?? SILENT_LOG;
    this.#url = options.url;
    const pool = createPool({
      url: options.url,
      applicationName: 'sagax-bus',
      max: options.maxConnections ?? 4,
      onIdleError: (err) => this.#log.debug({ err }, 'an idle connection of the bus died'),
    });
    this.#database = new Database(pool);
    this.#topics = new BusTopics(this.#database);
    this.#groups = new BusGroups(this.#database, leaseMs);
    this.#publisher = new PostgresPublisher(
      this.#database,
      this.#topics,
      options.publishTimeoutMs ?? 10_000,
      (messages) => handOn(this.#url, messages),
    );
    const subscriptions = (): PostgresSubscription[] => [...this.#subscriptions];
    this.#poller = new BusPoller(
      this.#database,
      () => subscriptions().flatMap((subscription) => subscription.lanes()),
      (err) => this.#log.warn({ err }, 'the bus could not be read; trying again'),
    );
    this.#bells = new BusBells(this.#database, this.#log, {
      rung: () => this.#poller.rung(),
      told: (messages) => this.#poller.told(messages),
    });
    this.#membership = new BusMembership(
      this.#groups,
      leaseMs,
      subscriptions,
      this.#bells,
      this.#log,
    );
  }

  publish(messages: readonly BusMessage[]): Promise<void> {
    if (this.#closing === null) enlist(this.#url, this);
    return this.#publisher.publish(messages);
  }

  subscribe(options: SubscribeOptions): Subscription {
    if (this.#closing !== null) throw unavailable('this bus has been closed');
    if (options.group === '' || options.topics.length === 0 || (options.maxBatch ?? 1) < 1) {
      throw new SagaxError(
        'CONFIG_INVALID',
        'A subscription needs a group, at least one topic, and a maxBatch of at least 1.',
      );
    }
    const subscription = new PostgresSubscription(randomUUID(), options, {
      topics: this.#topics,
      groups: this.#groups,
      log: this.#log,
      wakePoller: () => this.#poller.wake(),
      membershipChanged: () => tellMembers(this.#url),
      closed: (gone) => this.#subscriptions.delete(gone),
    });
    this.#subscriptions.add(subscription);
    enlist(this.#url, this);
    this.#membership.wake();
    return subscription;
  }

  within({ host, port, database }: DatabasePlace): CommitShare | null {
    const own = new pg.Client({ connectionString: this.#url });
    const isOwn = own.host === host && own.port === port && own.database === database;
    return isOwn ? new BusBeside(this.#topics, this.#url) : null;
  }

  async ensureTopics(specs: readonly TopicSpec[]): Promise<void> {
    await this.#topics.ensure(specs).catch(throwAsBusError);
  }

  async endOffsets(topic: string): Promise<Map<number, bigint>> {
    return this.#topics.endOffsets(topic).catch(throwAsBusError);
  }

  async ping(): Promise<void> {
    await this.#database.read({ text: 'SELECT 1' }).catch(throwAsBusError);
  }

  async trim(limit?: number): Promise<number> {
    return trimBus(this.#database, limit).catch(throwAsBusError);
  }

  async forgetGroup(group: string): Promise<boolean> {
    return forgetGroup(this.#database, group).catch(throwAsBusError);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.close()));
    await this.#publisher.close();
    delist(this.#url, this);
    await Promise.all([this.#poller.close(), this.#membership.close(), this.#bells.close()]);
    await this.#database.pool.end();
  }

  get isMember(): boolean {
    return this.#bells.isMember;
  }

  published(messages: readonly Committed[]): void {
    this.#poller.published(messages);
  }

  ring(messages: readonly Committed[]): void {
    this.#bells.ring(messages);
  }

  membershipChanged(): void {
    if (this.#subscriptions.size > 0) this.#membership.wake();
  }
}

function throwAsBusError(error: unknown): never {
  throw toBusError(error);
}
