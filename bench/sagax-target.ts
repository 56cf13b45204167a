/**
 * Sagax as the driver sees it: starts go straight onto the bus, ends are seen in the event log.
 *
 * Guards that an end counts only once it can be read, committed and visible. The log's tail is read per
 * shard behind a cursor: the cost follows the number of events, not that of sagas in flight.
 */
import { CE_TYPES, encodeMessage, topicNames } from '../engine/core/wire.ts';
import { partitionOf } from '../engine/core/shards.ts';
import { createKafkaBus } from '../engine/kafka/bus.ts';
import type { Bus, BusMessage } from '../engine/ports.ts';
import { createPostgresBus } from '../engine/postgres/bus.ts';
import { openPostgres, type PostgresPorts } from '../engine/postgres/index.ts';
import { createSnowflakes, type Snowflakes } from '../engine/runtime/snowflake.ts';
import type { Json } from '../engine/core/json.ts';
import type { Target, Work } from './load.ts';

/** Pauses between two looks at the log's tail. */
const PAUSE_MS = { exact: 1, cheap: 15 } as const;
const TAIL_LIMIT = 2_000;
const NODE_LEASE_MS = 30_000;
/** A saga id a day from now, for the planner to see that older and later partitions need no look. */
const ID_DAY = 86_400_000n << 22n;

const TAIL_SQL = `
SELECT c.shard, max(t.shard_seq) AS upto, count(t.shard_seq)::int AS n,
  array_agg(t.saga_id || ' ' || t.type) FILTER (WHERE t.type IN ('SagaCompleted', 'SagaCompensated', 'SagaStuck')) AS ended
FROM unnest($1::int[], $2::bigint[]) AS c (shard, after)
CROSS JOIN LATERAL (
  SELECT e.shard_seq, e.saga_id, e.type FROM sagax.events e
  WHERE e.shard = c.shard AND e.shard_seq > c.after AND e.saga_id >= $3::bigint AND e.saga_id < $4::bigint
  ORDER BY e.shard_seq LIMIT ${TAIL_LIMIT}) t
GROUP BY c.shard`;

interface TailRow {
  shard: number;
  upto: string;
  n: number;
  ended: string[] | null;
}

export interface SagaxAccess {
  databaseUrl: string;
  /** Without them the Postgres bus. */
  brokers: readonly string[] | null;
  topicPrefix: string;
}

/** How a saga ended, by its last event. */
export type End = 'SagaCompleted' | 'SagaCompensated' | 'SagaStuck';

export class SagaxTarget implements Target {
  readonly #postgres: PostgresPorts;
  readonly #bus: Bus;
  readonly #ids: Snowflakes;
  readonly #inbox: string;
  readonly #shardCount: number;
  readonly #cursors: Map<number, string>;
  readonly #firstId: bigint;
  readonly #waiting = new Map<string, (end: End) => void>();
  readonly #stop = new AbortController();
  #tail: Promise<void> | null = null;
  #pause_ms: number = PAUSE_MS.exact;
  #failure: Error | null = null;
  #number = 0;

  static async open(access: SagaxAccess): Promise<SagaxTarget> {
    const postgres = await openPostgres({
      url: access.databaseUrl,
      applicationName: 'bench-driver',
      max: 4,
      migrate: false,
    });
    const ids = await createSnowflakes(postgres.nodeIds, postgres.clock, 'bench', NODE_LEASE_MS);
    const bus =
      access.brokers === null
        ? createPostgresBus({ url: access.databaseUrl })
        : createKafkaBus({ brokers: access.brokers });
    const positions = await postgres.pool.query<{ shard: number; seq: string }>(
      'SELECT shard, next_seq - 1 AS seq FROM sagax.shard_positions',
    );
    const cursors = new Map(positions.rows.map(({ shard, seq }) => [shard, seq]));
    return new SagaxTarget(postgres, ids, bus, access.topicPrefix, cursors);
  }

  private constructor(
    postgres: PostgresPorts,
    ids: Snowflakes,
    bus: Bus,
    topicPrefix: string,
    cursors: Map<number, string>,
  ) {
    this.#postgres = postgres;
    this.#ids = ids;
    this.#bus = bus;
    this.#inbox = topicNames(topicPrefix).inbox;
    this.#shardCount = postgres.shardLeases.shardCount;
    this.#cursors = cursors;
    this.#firstId = BigInt(ids.next());
  }

  watch(how: 'exact' | 'cheap'): void {
    this.#pause_ms = PAUSE_MS[how];
  }

  async run(work: Work): Promise<'completed' | 'compensated'> {
    this.#number += 1;
    const input = { orderId: `order-${this.#number}`, fail: work === 'compensated' };
    const end = await (await this.start('order', input)).ended;
    if (end === 'SagaStuck') throw new Error('A saga is stuck.');
    return end === 'SagaCompleted' ? 'completed' : 'compensated';
  }

  /** Puts a start on the bus. On return it is durable; `ended` resolves when the end can be seen. */
  async start(definition: string, input: Json): Promise<{ sagaId: string; ended: Promise<End> }> {
    const sagaId = this.#ids.next();
    const ended = new Promise<End>((resolve) => this.#waiting.set(sagaId, resolve));
    this.#tail ??= this.#readTail();
    const body = { sagaId, namespace: 'default', definition, definitionVersion: 1, input };
    await this.#bus.publish([this.#message(CE_TYPES.start, sagaId, sagaId, body)]);
    return { sagaId, ended };
  }

  async signal(sagaId: string, name: string): Promise<void> {
    const body = { sagaId, namespace: 'default', signalId: `${sagaId}-${name}`, name, payload: {} };
    const message = this.#message(CE_TYPES.signal, sagaId, `${sagaId}-${name}`, body);
    await this.#bus.publish([message]);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#tail;
    await this.#bus.close();
    await this.#ids.close();
    await this.#postgres.close();
    if (this.#failure !== null) throw this.#failure;
  }

  #message(type: string, sagaId: string, id: string, body: object): BusMessage {
    const envelope = { type, id, source: '/bench', at: Date.now(), sagaId };
    const partition = partitionOf(sagaId, this.#shardCount);
    return { topic: this.#inbox, partition, ...encodeMessage(envelope, body) };
  }

  async #readTail(): Promise<void> {
    const { clock } = this.#postgres;
    while (!this.#stop.signal.aborted) {
      const isFull = this.#waiting.size > 0 && (await this.#look());
      if (!isFull) await clock.sleep(this.#pause_ms, this.#stop.signal);
    }
  }

  /** @returns whether there is more to be read at once */
  async #look(): Promise<boolean> {
    const rows = await this.#tailRows();
    for (const { shard, upto, ended } of rows) {
      this.#cursors.set(shard, upto);
      for (const line of ended ?? []) {
        const [sagaId = '', end = ''] = line.split(' ');
        this.#waiting.get(sagaId)?.(end as End);
        this.#waiting.delete(sagaId);
      }
    }
    return rows.some(({ n }) => n === TAIL_LIMIT);
  }

  async #tailRows(): Promise<TailRow[]> {
    try {
      const { rows } = await this.#postgres.pool.query<TailRow>({
        name: 'bench-tail',
        text: TAIL_SQL,
        values: [
          [...this.#cursors.keys()],
          [...this.#cursors.values()],
          this.#firstId.toString(),
          (this.#firstId + ID_DAY).toString(),
        ],
      });
      return rows;
    } catch (error) {
      this.#failure = error as Error;
      this.#stop.abort();
      throw error;
    }
  }
}
