/** The engine node over memory ports: inputs in, commands out, events in the log. */
import { afterEach, describe, expect, test } from 'vitest';
import { order } from '../../definitions/order/saga.ts';
import type { CommandBody } from '../../engine/core/wire.ts';
import { openMemory } from '../../engine/memory/index.ts';
import { createEngine, type Engine, type EngineOptions } from '../../engine/runtime/engine.ts';
import { participants, replyMessage, send, type Answer } from '../support/participants.ts';

const SHARDS = 4;
const topology = { topicPrefix: 't', commandPartitions: 3 };
const SERVICES = ['inventory', 'payments', 'shipping', 'notifications'];
const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

type Ports = ReturnType<typeof openMemory>;

async function startEngine(
  ports: Ports,
  owner: string,
  options: Partial<EngineOptions> = {},
): Promise<Engine> {
  const engine = createEngine({ ...ports, definitions: [order], topology, owner, ...options });
  await engine.start();
  closing.push(() => engine.drain());
  return engine;
}

const HAPPY: { [command: string]: Answer } = {
  'inventory.reserve-stock': { outcome: 'succeeded', output: { reservationId: 'r-1' } },
  'inventory.release-stock': { outcome: 'succeeded', output: {} },
  'payments.charge-card': { outcome: 'succeeded', output: { paymentId: 'p-1' } },
  'payments.refund-card': { outcome: 'succeeded', output: { refundId: 'f-1' } },
  'shipping.ship-order': { outcome: 'succeeded', output: { trackingId: 't-1' } },
  'notifications.send-receipt': { outcome: 'succeeded', output: { messageId: 'm-1' } },
};

async function answering(
  ports: Ports,
  table: { [command: string]: Answer },
): Promise<CommandBody[]> {
  const { subscription, commands } = await participants(
    ports.another('participants').bus,
    't',
    SERVICES,
    (command) => {
      const answer = table[command.command];
      if (answer === undefined) throw new Error(`no answer for ${command.command}`);
      return answer;
    },
  );
  closing.push(() => subscription.close());
  return commands;
}

const input = (amountCents = 5_000): object => ({
  orderId: 'o-1',
  email: 'ann@example.com',
  sku: 'book',
  quantity: 1,
  amountCents,
  card: '4242',
  address: { name: 'Ann', street: 'Way 1', city: 'Ulm', postalCode: '89073', country: 'DE' },
  approvalTimeoutMs: 60_000,
});

function start(ports: Ports, sagaId: string, body: object = {}): Promise<void> {
  return send(ports.bus, 't', ports.shardLeases.shardCount, 'start', {
    sagaId,
    definition: 'order',
    definitionVersion: 1,
    input: input(),
    ...body,
  });
}

/** Resolves when what is looked for is there; looks again whenever the event loop has gone round. */
async function until<T>(
  ports: Ports,
  look: () => Promise<T | null | undefined | false>,
): Promise<T> {
  const giveUpAt = Date.now() + 10_000;
  while (Date.now() < giveUpAt) {
    const found = await look();
    if (found !== null && found !== undefined && found !== false) return found;
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error(
    `never came true; log: ${JSON.stringify(await ports.reader.list({ namespace: 'default', limit: 10 }))}`,
  );
}

const ended = (ports: Ports, sagaId: string) =>
  until(ports, async () => {
    const saga = await ports.reader.get('default', sagaId);
    return saga === null || saga.endedAt === null ? null : saga;
  });
const typesOf = async (ports: Ports, sagaId: string): Promise<string[]> =>
  (await ports.reader.history(sagaId, 0, 1_000)).map(({ event }) => event.type);

describe('engine on memory ports', () => {
  test('runs an order to its end', async () => {
    const ports = openMemory({ shards: SHARDS });
    await startEngine(ports, 'a');
    const commands = await answering(ports, HAPPY);
    await start(ports, '1001');
    const saga = await ended(ports, '1001');
    expect(saga.status).toBe('completed');
    expect(saga.output).toMatchObject({ outcome: 'completed', trackingId: 't-1' });
    expect(commands.map(({ commandId }) => commandId)).toEqual([
      '1001.1',
      '1001.2',
      '1001.3',
      '1001.4',
    ]);
    const history = await ports.reader.history('1001', 0, 100);
    expect(history.map(({ streamVersion }) => streamVersion)).toEqual(
      history.map((_, index) => index + 1),
    );
    expect(history.at(-1)?.event.type).toBe('SagaCompleted');
  });

  test('a rejected charge releases the stock', async () => {
    const ports = openMemory({ shards: SHARDS });
    await startEngine(ports, 'a');
    const commands = await answering(ports, {
      ...HAPPY,
      'payments.charge-card': {
        outcome: 'rejected',
        failure: { code: 'CardDeclined', message: 'no', data: { declineCode: 'card_declined' } },
      },
    });
    await start(ports, '1002');
    const saga = await ended(ports, '1002');
    expect(saga).toMatchObject({ status: 'compensated', failureCode: 'CardDeclined' });
    expect(commands.map(({ command, op, of }) => [command, op, of])).toEqual([
      ['inventory.reserve-stock', 'do', undefined],
      ['payments.charge-card', 'do', undefined],
      ['inventory.release-stock', 'compensate', '1002.1'],
    ]);
  });

  test('waits for a signal across a restart of the engine, its timer still set', async () => {
    const ports = openMemory({ shards: SHARDS });
    const first = await startEngine(ports, 'a');
    await answering(ports, HAPPY);
    await start(ports, '1003', { input: input(200_000) });
    await until(ports, async () => (await typesOf(ports, '1003')).includes('TimerSet'));
    await first.drain();
    await startEngine({ ...ports, ...ports.another('b') }, 'b');
    await send(ports.bus, 't', SHARDS, 'signal', {
      sagaId: '1003',
      signalId: 's1',
      name: 'approve',
      payload: { by: 'bob' },
    });
    expect(await ended(ports, '1003')).toMatchObject({ status: 'completed' });
    const types = await typesOf(ports, '1003');
    expect(types.filter((type) => type === 'TimerSet')).toHaveLength(1);
    expect(types).toContain('TimerCleared');
  });

  test('a due timer fires after a restart and cancels the order', async () => {
    const ports = openMemory({ shards: SHARDS });
    const first = await startEngine(ports, 'a');
    const commands = await answering(ports, HAPPY);
    await start(ports, '1004', { input: { ...input(200_000), approvalTimeoutMs: 50 } });
    await until(ports, async () => (await typesOf(ports, '1004')).includes('TimerSet'));
    await first.drain();
    await startEngine({ ...ports, ...ports.another('b') }, 'b');
    const saga = await ended(ports, '1004');
    expect(saga.status).toBe('compensated');
    const history = await ports.reader.history('1004', 0, 100);
    const set = history.find(({ event }) => event.type === 'TimerSet')?.event as { dueAt: number };
    expect(history.find(({ event }) => event.type === 'TimerFired')?.at).toBeGreaterThanOrEqual(
      set.dueAt,
    );
    expect(commands.filter(({ op }) => op === 'compensate').map(({ of }) => of)).toEqual([
      '1004.2',
      '1004.1',
    ]);
  });

  test('repeats of every message change nothing', async () => {
    const ports = openMemory({ shards: SHARDS });
    await startEngine(ports, 'a');
    const bus = ports.another('doubling').bus;
    const { subscription, commands } = await participants(bus, 't', SERVICES, (command) => {
      const answer = HAPPY[command.command] ?? null;
      if (answer !== null)
        void bus.publish([replyMessage(command, answer), replyMessage(command, answer)]);
      return answer;
    });
    closing.push(() => subscription.close());
    await start(ports, '1005');
    await start(ports, '1005');
    expect(await ended(ports, '1005')).toMatchObject({ status: 'completed' });
    await start(ports, '1005');
    await start(ports, '1006');
    await ended(ports, '1006');
    expect(commands.filter(({ sagaId }) => sagaId === '1005')).toHaveLength(4);
    expect((await typesOf(ports, '1005')).filter((type) => type === 'StepSucceeded')).toHaveLength(
      4,
    );
  });

  test('bad messages are parked with their reason, and healthy sagas go on', async () => {
    const ports = openMemory({ shards: 1 });
    await startEngine(ports, 'a');
    await answering(ports, HAPPY);
    const raw = (value: string, headers: { [name: string]: string }) =>
      ports.bus.publish([{ topic: 't.inbox', partition: 0, key: 'x', headers, value }]);
    await raw('{', { ce_type: 'sagax.start.v1' });
    await raw('{"__proto__":1}', { ce_type: 'sagax.start.v1' });
    await raw('{}', {});
    await send(ports.bus, 't', 1, 'signal', {
      sagaId: '77',
      signalId: 'x',
      name: 'approve',
      payload: { by: 'x' },
    });
    await send(ports.bus, 't', 1, 'start', {
      sagaId: '78',
      definition: 'nope',
      definitionVersion: 1,
      input: {},
    });
    await send(ports.bus, 't', 1, 'start', {
      sagaId: '1007',
      definition: 'order',
      definitionVersion: 1,
      input: input(),
    });
    await send(ports.bus, 't', 1, 'reply', {
      sagaId: '1007',
      commandId: '1007.9',
      outcome: 'succeeded',
      output: {},
    });
    await ended(ports, '1007');
    const parked = await ports.deadLetters.list({ limit: 100 });
    expect(parked.map(({ code }) => code).sort()).toEqual([
      'COMMAND_UNKNOWN',
      'DEFINITION_UNKNOWN',
      'MESSAGE_INVALID',
      'MESSAGE_INVALID',
      'PAYLOAD_REFUSED',
      'SAGA_UNKNOWN',
    ]);
  });

  test('an input that came to the wrong partition is passed on', async () => {
    const ports = openMemory({ shards: SHARDS });
    await startEngine(ports, 'a');
    await answering(ports, HAPPY);
    await ports.bus.ensureTopics([{ topic: 't.inbox', partitions: SHARDS }]);
    const message = { sagaId: '1008', definition: 'order', definitionVersion: 1, input: input() };
    await send(
      {
        ...ports.bus,
        publish: (messages) =>
          ports.bus.publish(messages.map((m) => ({ ...m, partition: (m.partition + 1) % SHARDS }))),
      },
      't',
      SHARDS,
      'start',
      message,
    );
    expect(await ended(ports, '1008')).toMatchObject({ status: 'completed' });
  });

  test('a namespace sees no inputs of another', async () => {
    const ports = openMemory({ shards: SHARDS });
    await startEngine(ports, 'a');
    await answering(ports, HAPPY);
    await start(ports, '1009', { input: input(200_000), namespace: 'blue' });
    await until(ports, async () => (await typesOf(ports, '1009')).includes('TimerSet'));
    await send(ports.bus, 't', SHARDS, 'cancel', {
      sagaId: '1009',
      requestId: 'c',
      reason: 'theirs',
      by: 'them',
    });
    await until(ports, async () => (await ports.deadLetters.list({ limit: 10 })).length === 1);
    expect((await ports.reader.get('blue', '1009'))?.status).toBe('running');
    expect(await ports.reader.get('default', '1009')).toBeNull();
  });

  test('a node whose shard was taken appends nothing more (I2)', async () => {
    const ports = openMemory({ shards: 1 });
    const engine = await startEngine(ports, 'a');
    await start(ports, '1010');
    await until(ports, async () => (await typesOf(ports, '1010')).length > 0);
    const thief = ports.another('thief');
    const lease = await thief.shardLeases.acquire(0, 'thief', 60_000, { steal: true });
    expect(lease?.epoch).toBe(2);
    await send(ports.bus, 't', 1, 'cancel', {
      sagaId: '1010',
      requestId: 'c',
      reason: 'x',
      by: 'x',
    });
    await until(ports, () => Promise.resolve(engine.shards().length === 0));
    expect(await typesOf(ports, '1010')).not.toContain('CancelRequested');
    await thief.shardLeases.release(0, 'thief', 2);
    await until(ports, async () => (await typesOf(ports, '1010')).includes('CancelRequested'));
    expect((await ports.reader.history('1010', 0, 100)).at(-1)?.epoch).toBe(3);
  });
});
