/** What one batch makes of its messages: poison beside healthy ones, faulted machines, namespaces, and foreign partitions. */
import { describe, expect, test } from 'vitest';
import { decide } from '../../engine/core/decide.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import { encodeLetter } from '../../engine/core/letters.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import type { BusMessage, ReceivedMessage } from '../../engine/ports.ts';
import {
  alarm,
  busAway,
  doneOf,
  failing,
  idsIn,
  INBOX,
  inputOf,
  job,
  shardRig,
  signalOf,
  startOf,
  type ShardRig,
} from './support.ts';

const letters = (rig: ShardRig) =>
  rig.memory.db.deadLetters.map(({ offset, code }) => [Number(offset), code]);

describe('poison in the middle of a batch', () => {
  test('is parked with its reason, each kind, and healthy sagas in the same batch go on', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const bad = (value: string | null, headers = startOf('1').headers) => ({
      key: 'k',
      headers,
      value,
    });
    const messages = rig.next(
      startOf('1'),
      bad('{') as never,
      bad(null) as never,
      bad('{}', {}) as never,
      bad('{"a":{"__proto__":1}}') as never,
      bad(`"${'x'.repeat(910_000)}"`) as never,
      startOf('2'),
      startOf('3', 'nobody-knows-it'),
      doneOf('4'),
      signalOf('1', 'no-such-signal'),
      inputOf('operator', {
        sagaId: '1',
        requestId: 'r',
        by: 'b',
        reason: 'r',
        action: { verb: 'resume' },
      }),
      doneOf('1'),
    );
    await shard.handle(messages);
    expect(letters(rig)).toEqual([
      [1, 'MESSAGE_INVALID'],
      [2, 'MESSAGE_INVALID'],
      [3, 'MESSAGE_INVALID'],
      [4, 'PAYLOAD_REFUSED'],
      [5, 'PAYLOAD_REFUSED'],
      [7, 'DEFINITION_UNKNOWN'],
      [8, 'SAGA_UNKNOWN'],
      [9, 'SIGNAL_UNKNOWN'],
      [10, 'COMMAND_UNKNOWN'],
    ]);
    expect(rig.types('1').at(-1)).toBe('SagaCompleted');
    expect(rig.types('2')).toHaveLength(2);
    expect(rig.log.count('append')).toBeLessThanOrEqual(2);
    expect(rig.memory.db.shard(0).nextOffset).toBe(12n);
    await shard.close();
  });

  test('a defect of ours on one message parks that message alone', async () => {
    const rig = await shardRig();
    const shard = await rig.open({
      decide: (definition, sagaId, ...rest) => {
        if (sagaId === '2') throw new TypeError('undefined is not a function');
        return decide(definition, sagaId, ...rest);
      },
    });
    await shard.handle(rig.next(startOf('1'), startOf('2'), startOf('3')));
    expect(letters(rig)).toEqual([[1, 'INTERNAL']]);
    expect(rig.memory.db.deadLetters[0]?.reason).toContain('undefined is not a function');
    expect([rig.types('1'), rig.types('2'), rig.types('3')].map((t) => t.length)).toEqual([
      2, 0, 2,
    ]);
    await shard.close();
  });
});

describe('dead letters', () => {
  test('of participants come in by the inbox and are kept as they were; a report that is none is one itself', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const letter = {
      topic: 't.commands.shop',
      partition: 3,
      offset: 9_007_199_254_740_993n,
      key: 'k\0',
      headers: { ce_type: 'x' },
      value: '\ud800 \0',
      code: 'MESSAGE_INVALID',
      reason: 'no JSON',
      at: 5,
    };
    const report = encodeLetter('shop', letter);
    const broken = { ...report, value: report.value.replace('"offset"', '"place"') };
    const foreign = encodeLetter('shop', { ...letter, code: 'MADE-UP-4711' });
    await shard.handle(rig.next(report, startOf('1'), broken, foreign));
    expect(rig.memory.db.deadLetters[0]).toMatchObject(letter);
    expect(letters(rig)[1]).toEqual([2, 'MESSAGE_INVALID']);
    expect(rig.memory.db.deadLetters[2]?.code).toBe('MADE-UP-4711');
    const counted = rig.telemetry.labels.filter(({ name }) => name === 'dead_letters_total');
    expect(counted.map(({ labels }) => labels['code'])).toEqual([
      'MESSAGE_INVALID',
      'MESSAGE_INVALID',
      'OTHER',
    ]);
    expect(rig.types('1')).toHaveLength(2);
    await shard.close();
  });

  test('of a version that is not deployed here are kept whole, and go through once it is', async () => {
    const rig = await shardRig();
    const without = await rig.open({ definitions: [job] });
    const text = 'ä'.repeat(100_000);
    await without.handle(rig.next(startOf('1', 'alarm', { ms: 5, text })));
    const [letter] = rig.memory.db.deadLetters;
    expect(letter).toMatchObject({ code: 'DEFINITION_UNKNOWN' });
    await without.close();
    const shard = await rig.open({ definitions: [job, alarm] });
    await shard.handle(
      rig.next({
        key: letter?.key ?? '',
        headers: letter?.headers ?? {},
        value: letter?.value ?? '',
      }),
    );
    expect(rig.types('1')).toEqual(['SagaStarted', 'TimerSet']);
    await shard.close();
  });

  test('so are answers to sagas on a version that a node does not know', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await shard.handle(rig.next(startOf('1')));
    await shard.close();
    const without = await rig.open({ definitions: [alarm] });
    await without.handle(rig.next(doneOf('1'), startOf('2', 'alarm', { ms: 5 })));
    expect(letters(rig)).toEqual([[1, 'DEFINITION_UNKNOWN']]);
    expect(rig.telemetry.of('replay_divergences_total')).toBe(0);
    expect(rig.types('2')).toHaveLength(2);
    await without.close();
  });

  test('of what can not be read are cut', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await shard.handle(rig.next({ ...startOf('1'), value: `{${'x'.repeat(100_000)}` }));
    expect(rig.memory.db.deadLetters[0]?.value).toHaveLength(65_536);
    await shard.close();
  });
});

describe('a machine that throws', () => {
  test('stops its own saga, is logged, and the sagas beside it go on', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const ids = ['1', '2', '3'];
    await shard.handle(rig.next(...ids.map((id) => startOf(id, 'alarm', { ms: 60_000 }))));
    await shard.handle(
      rig.next(
        signalOf('1', 'tell'),
        signalOf('2', 'boom'),
        signalOf('3', 'tell'),
        signalOf('2', 'tell'),
      ),
    );
    expect(letters(rig)).toEqual([]);
    expect(rig.types('2').slice(2)).toEqual(['InputFaulted', 'SagaStuck', 'InputDeferred']);
    expect(rig.memory.db.summaries.get('2')).toMatchObject({
      status: 'stuck',
      failureCode: 'MACHINE_FAULT',
    });
    for (const id of ['1', '3']) expect(rig.types(id).at(-1)).toBe('SignalReceived');
    expect(rig.telemetry.of('sagas_stuck_total')).toBe(1);
    // A faulted saga sleeps, whatever falls due.
    await rig.clock.advance(120_000);
    expect(rig.types('2')).toHaveLength(5);
    expect(rig.types('1').at(-1)).toBe('SagaCompleted');
    await shard.close();
  });
});

describe('a saga whose log does not replay', () => {
  test('is stopped and reported; its messages are parked and others go on', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await shard.handle(rig.next(startOf('1'), startOf('2')));
    await shard.close();
    const stored = rig.memory.db.streams.get('1')?.[1];
    if (stored === undefined) throw new Error('no event');
    stored.text = stored.text.replace('svc.do-a', 'svc.do-b');
    const next = await rig.open();
    await next.handle(rig.next(doneOf('1'), doneOf('2')));
    expect(letters(rig)).toEqual([[2, 'REPLAY_DIVERGED']]);
    expect(rig.telemetry.of('replay_divergences_total')).toBe(1);
    expect(rig.types('1')).toHaveLength(2);
    expect(rig.types('2').at(-1)).toBe('SagaCompleted');
    await next.close();
  });
});

describe('namespaces', () => {
  test('no input of another namespace touches a saga, and none starts it anew', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const blue = { sagaId: '1', namespace: 'blue' };
    await shard.handle(
      rig.next(
        inputOf('start', {
          ...blue,
          definition: 'alarm',
          definitionVersion: 1,
          input: { ms: 5_000 },
        }),
      ),
    );
    const before = rig.types('1');
    await shard.handle(
      rig.next(
        signalOf('1', 'tell'),
        inputOf('cancel', { sagaId: '1', requestId: 'c', reason: 'r', by: 'b' }),
        inputOf('operator', {
          sagaId: '1',
          requestId: 'o',
          by: 'b',
          reason: 'r',
          action: { verb: 'pause' },
        }),
        startOf('1', 'alarm', { ms: 1 }),
        doneOf('1'),
      ),
    );
    expect(rig.types('1')).toEqual(before);
    expect(letters(rig).map(([, code]) => code)).toEqual(Array(5).fill('SAGA_UNKNOWN'));
    await shard.handle(
      rig.next(inputOf('signal', { ...blue, signalId: 's', name: 'tell', payload: {} })),
    );
    expect(rig.types('1').at(-1)).toBe('SignalReceived');
    await shard.close();
  });
});

describe('messages for another partition', () => {
  const foreign = (rig: ShardRig, count: number): ReceivedMessage[] =>
    rig.next(...idsIn(1, 2, count).map((id) => startOf(id)));
  const passedOn = (rig: ShardRig): (string | null)[] =>
    rig.memory.broker.record(INBOX).map(({ key }) => key);

  test('are passed on to it in order, under the right key, and our offset moves past them', async () => {
    const rig = await shardRig(2);
    const shard = await rig.open();
    const own = idsIn(0, 2, 1)[0] ?? '';
    await shard.handle([...foreign(rig, 3), ...rig.next(startOf(own))]);
    expect(passedOn(rig)).toEqual(idsIn(1, 2, 3));
    for (const { partition, key } of rig.memory.broker.record(INBOX))
      expect(partition).toBe(partitionOf(key ?? '', 2));
    expect(rig.types(own)).toHaveLength(2);
    expect(rig.memory.db.shard(0)).toMatchObject({ nextOffset: 4n, nextSeq: 3 });
    await shard.close();
  });

  test('are not lost when the bus is away, nor passed over', async () => {
    const rig = await shardRig(2);
    const shard = await rig.open();
    rig.bus.next('publish', failing(busAway));
    const messages = foreign(rig, 2);
    await expect(shard.handle(messages)).rejects.toMatchObject({ code: 'BUS_UNAVAILABLE' });
    expect(rig.memory.db.shard(0).nextOffset).toBe(0n);
    const again = shard.handle(messages);
    await rig.clock.advance(250);
    await again;
    expect(passedOn(rig)).toEqual(idsIn(1, 2, 2));
    expect(rig.memory.db.shard(0).nextOffset).toBe(2n);
    await shard.close();
  });

  test('are parked when the bus refuses them, and those beside them go', async () => {
    const rig = await shardRig(2);
    const shard = await rig.open();
    const [first, second, third] = idsIn(1, 2, 3);
    rig.bus.always('publish', (call, [sent]) => {
      if ((sent as BusMessage[]).some(({ key }) => key === second))
        throw new SagaxError('PAYLOAD_REFUSED', 'The message is over the limit.');
      return call();
    });
    await shard.handle(foreign(rig, 3));
    expect(passedOn(rig)).toEqual([first, third]);
    expect(letters(rig)).toEqual([[1, 'PAYLOAD_REFUSED']]);
    expect(rig.memory.db.shard(0).nextOffset).toBe(3n);
    await shard.close();
  });

  test('go once more when the commit behind them fails, and change nothing the second time', async () => {
    const rig = await shardRig(2);
    const shard = await rig.open();
    rig.log.next('append', failing());
    const handled = shard.handle(foreign(rig, 1));
    await rig.clock.advance(250);
    await handled;
    expect(passedOn(rig)).toEqual(idsIn(1, 2, 1));
    await shard.close();
  });
});
