/**
 * A topic that is deleted and made anew while it is read: its offsets begin again at 0.
 *
 * Guards that the reader is asked anew where to read on, so that an engine, whose own offset is higher,
 * refuses the topic and leaves its messages where they are, and that the remedy it names works (I4).
 */
import { randomBytes } from 'node:crypto';
import { Admin } from '@platformatic/kafka';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { order } from '../../definitions/order/saga.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import type { Bus, TopicSpec } from '../../engine/ports.ts';
import { createEngine, type Engine } from '../../engine/runtime/engine.ts';
import { silentTelemetry } from '../../engine/runtime/telemetry.ts';
import { message } from '../conformance/bus-conformance.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { eventually } from '../e2e/processes.ts';
import { happyOrder, ORDER_SERVICES, orderInput } from '../runtime/orders.ts';
import { kafkaBrokers } from '../support/kafka.ts';
import { participants, send } from '../support/participants.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

const brokers = kafkaBrokers();

describe.skipIf(brokers === null)('a topic made anew', () => {
  const prefix = `anew-${randomBytes(4).toString('hex')}`;
  let bus: Bus;
  let admin: Admin;
  beforeAll(() => {
    bus = createKafkaBus({ brokers: brokers ?? [] });
    admin = new Admin({ clientId: 'anew', bootstrapBrokers: brokers ?? [] });
  });
  afterAll(async () => {
    await bus.close();
    await admin.close();
  });

  const makeAnew = async (spec: TopicSpec): Promise<void> => {
    await admin.deleteTopics({ topics: [spec.topic] });
    // The name is free only when the brokers have forgotten it.
    await eventually('the topic is made anew', 30_000, async () => {
      try {
        await bus.ensureTopics([spec]);
        const ends = await bus.endOffsets(spec.topic);
        return [...ends.values()].every((end) => end === 0n) ? true : null;
      } catch (error) {
        // Half gone, it is neither there nor to be made.
        expect(error).toMatchObject({ code: 'BUS_UNAVAILABLE' });
        return null;
      }
    });
  };

  it('is revoked and assigned again, and read from its beginning', async () => {
    const spec = { topic: `${prefix}.read`, partitions: 1 };
    await bus.ensureTopics([spec]);
    const recorder = new BusRecorder(({ messages, commit }) => {
      commit((messages.at(-1)?.offset ?? 0n) + 1n);
      return Promise.resolve();
    });
    const options = recorder.options({ group: `${prefix}.g`, topics: [spec.topic] });
    const subscription = bus.subscribe(options);
    await bus.publish(['a', 'b', 'c'].map((value) => message(spec.topic, 0, value)));
    await recorder.until(() => recorder.messages.length === 3);
    await makeAnew(spec);
    await bus.publish([message(spec.topic, 0, 'd'), message(spec.topic, 0, 'e')]);
    await recorder.until(() => recorder.values.includes('e'));
    await subscription.close();
    expect(recorder.values).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(recorder.messages.map(({ offset }) => offset)).toEqual([0n, 1n, 2n, 0n, 1n]);
    const at = `${spec.topic}/0`;
    expect(recorder.moves).toEqual([`+${at}`, `-${at}`, `+${at}`, `-${at}`]);
    // What was committed is the new log's offset: nothing comes twice.
    const later = new BusRecorder();
    const again = bus.subscribe(later.options({ group: `${prefix}.g`, topics: [spec.topic] }));
    await again.ready();
    await bus.publish([message(spec.topic, 0, 'f')]);
    await later.until(() => later.messages.length > 0);
    await again.close();
    expect(later.values).toEqual(['f']);
  });

  describe('under an engine', () => {
    const inbox = { topic: `${prefix}.inbox`, partitions: 1 };
    let database: TestDatabase;
    let ports: PostgresPorts;
    let made = 0;
    beforeAll(async () => {
      database = await testDatabase();
      ports = await openPostgres({ url: database.url, shards: inbox.partitions, migrate: false });
    });
    afterAll(async () => {
      await ports?.close();
      await database?.drop();
    });

    /** An engine on a bus of its own; `refused` resolves with what it says of the topic. */
    const startEngine = async (): Promise<{ engine: Engine; refused: Promise<string> }> => {
      const refused = Promise.withResolvers<string>();
      const error = (fields: object): void => {
        const { err } = fields as { err?: Error & { code?: string } };
        if (err?.code === 'TOPOLOGY_MISMATCH') refused.resolve(err.message);
      };
      const engine = createEngine({
        ...ports,
        bus,
        definitions: [order],
        topology: { topicPrefix: prefix, commandPartitions: 1 },
        owner: `node-${made++}`,
        telemetry: { ...silentTelemetry, log: { ...silentTelemetry.log, error } },
      });
      await engine.start();
      return { engine, refused: refused.promise };
    };
    const startSaga = async (): Promise<string> => {
      const sagaId = composeSnowflake(Date.now(), 9, made++);
      await send(bus, prefix, inbox.partitions, 'start', {
        sagaId,
        definition: 'order',
        definitionVersion: 1,
        input: orderInput,
      });
      return sagaId;
    };
    const statuses = async (): Promise<{ [sagaId: string]: string }> => {
      const { rows } = await database.pool.query('SELECT saga_id, status FROM sagax.sagas');
      return Object.fromEntries(
        (rows as { saga_id: string; status: string }[]).map((row) => [row.saga_id, row.status]),
      );
    };
    const completed = (sagaId: string): Promise<unknown> =>
      eventually(`saga ${sagaId} is completed`, 60_000, async () =>
        (await statuses())[sagaId] === 'completed' ? true : null,
      );

    it('is refused, keeps what comes into it, and is read when its offset was set', async () => {
      const first = await startEngine();
      const answering = await participants(bus, prefix, ORDER_SERVICES, happyOrder);
      await completed(await startSaga());

      await makeAnew(inbox);
      const kept = await startSaga();
      const message = await first.refused;
      expect(message).toMatch(/ends at offset 1, but the event log has applied all below \d+/);
      expect(message).toContain('next_offset');
      await first.engine.drain();
      expect(Object.keys(await statuses())).not.toContain(kept);

      await database.pool.query('UPDATE sagax.shard_positions SET next_offset = 0 WHERE shard = 0');
      const second = await startEngine();
      await completed(kept);
      await second.engine.drain();
      await answering.subscription.close();
    });
  });
});
