/** Sagax as the driver sees it: starts and signals go straight onto the bus, ends are seen in the database. */
import { CE_TYPES, encodeMessage, topicNames } from '../engine/core/wire.ts';
import { partitionOf } from '../engine/core/shards.ts';
import { createKafkaBus } from '../engine/kafka/bus.ts';
import type { Bus, BusMessage } from '../engine/ports.ts';
import { createPostgresBus } from '../engine/postgres/bus.ts';
import { openPostgres, type PostgresPorts } from '../engine/postgres/index.ts';
import { StartIds } from '../engine/core/start-ids.ts';
import { createSnowflakes, type Snowflakes } from '../engine/runtime/snowflake.ts';
import type { Json } from '../engine/core/json.ts';
import type { Target, Work } from './load.ts';
import { EndWatcher, type End, type Watch } from './watcher.ts';

const NODE_LEASE_MS = 30_000;
/** Planning would cost more than the looks themselves. */
const KEEP_PLANS = 'options=-c%20plan_cache_mode%3Dforce_generic_plan';

export interface SagaxAccess {
  databaseUrl: string;
  /** Without them the Postgres bus. */
  brokers: readonly string[] | null;
  topicPrefix: string;
}

export class SagaxTarget implements Target {
  readonly #postgres: PostgresPorts;
  readonly #bus: Bus;
  readonly #ids: Snowflakes;
  readonly #watcher: EndWatcher;
  readonly #inbox: string;
  readonly #shardCount: number;
  readonly #startIds: StartIds;
  #number = 0;

  static async open(access: SagaxAccess): Promise<SagaxTarget> {
    const postgres = await openPostgres({
      url: `${access.databaseUrl}?${KEEP_PLANS}`,
      applicationName: 'bench-driver',
      max: 4,
      migrate: false,
    });
    const ids = await createSnowflakes(postgres.nodeIds, postgres.clock, 'bench', NODE_LEASE_MS);
    const bus =
      access.brokers === null
        ? createPostgresBus({ url: access.databaseUrl })
        : createKafkaBus({ brokers: access.brokers });
    const watcher = new EndWatcher(postgres.pool);
    await watcher.open();
    return new SagaxTarget({ postgres, ids, bus, watcher, topicPrefix: access.topicPrefix });
  }

  private constructor(parts: {
    postgres: PostgresPorts;
    ids: Snowflakes;
    bus: Bus;
    watcher: EndWatcher;
    topicPrefix: string;
  }) {
    this.#postgres = parts.postgres;
    this.#ids = parts.ids;
    this.#bus = parts.bus;
    this.#watcher = parts.watcher;
    this.#inbox = topicNames(parts.topicPrefix).inbox;
    this.#shardCount = parts.postgres.shardLeases.shardCount;
    // As the API does.
    this.#startIds = new StartIds(this.#ids, this.#shardCount, () => performance.now());
  }

  watch(how: Watch): void {
    this.#watcher.how = how;
  }

  async run(work: Work): Promise<End> {
    this.#number += 1;
    const input = { orderId: `order-${this.#number}`, fail: work === 'compensated' };
    const { ended } = await this.start('order', input);
    return ended;
  }

  /** Puts a start on the bus. On return it is durable; `ended` resolves when the end can be seen. */
  async start(definition: string, input: Json): Promise<{ sagaId: string; ended: Promise<End> }> {
    const sagaId = this.#startIds.next();
    const body = { sagaId, namespace: 'default', definition, definitionVersion: 1, input };
    const ended = this.#watcher.ended(sagaId);
    // Whoever called hears of it by `ended`, once the start is out.
    ended.catch(() => undefined);
    await this.#bus.publish([this.#message(CE_TYPES.start, sagaId, sagaId, body)]);
    return { sagaId, ended };
  }

  async signal(sagaId: string, name: string): Promise<void> {
    const signalId = `${sagaId}-${name}`;
    const body = { sagaId, namespace: 'default', signalId, name, payload: {} };
    await this.#bus.publish([this.#message(CE_TYPES.signal, sagaId, signalId, body)]);
  }

  async close(): Promise<void> {
    await this.#watcher.close();
    await this.#bus.close();
    await this.#ids.close();
    await this.#postgres.close();
  }

  #message(type: string, sagaId: string, id: string, body: object): BusMessage {
    const envelope = { type, id, source: '/bench', at: Date.now(), sagaId };
    const partition = partitionOf(sagaId, this.#shardCount);
    return { topic: this.#inbox, partition, ...encodeMessage(envelope, body) };
  }
}
