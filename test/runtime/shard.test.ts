/** One shard on memory ports: batches, the offset, failures at each await, and inputs that can't be applied. */
import { describe, expect, test } from 'vitest';
import { FencedError, SagaxError } from '../../engine/core/errors.ts';
import { settle } from '../../engine/memory/index.ts';
import {
  answerLost,
  busAway,
  doneOf,
  failing,
  held,
  shardRig,
  startOf,
  unavailable,
  unknownNotDone,
  until,
} from './support.ts';

describe('batches', () => {
  test('the input offset moves with the events, and messages below it change nothing (I4)', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const messages = rig.next(startOf('1'), startOf('2'));
    await shard.handle(messages);
    expect(rig.memory.db.shard(0)).toMatchObject({ nextOffset: 2n, nextSeq: 5 });
    await shard.handle(messages);
    await shard.handle([...messages.slice(1), ...rig.next(doneOf('1'))]);
    expect(rig.telemetry.of('inputs_skipped_total')).toBe(3);
    expect(rig.types('2')).toEqual(['SagaStarted', 'StepRequested']);
    expect(rig.types('1').at(-1)).toBe('SagaCompleted');
    expect(shard.nextOffset).toBe(3n);
    await shard.close();
  });

  test('while one batch commits the next ones gather into one', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const first = held();
    rig.log.next('append', first.fate);
    const handled = [shard.handle(rig.next(startOf('1')))];
    await first.reached;
    handled.push(shard.handle(rig.next(startOf('2'))), shard.handle(rig.next(startOf('3'))));
    first.release();
    await Promise.all(handled);
    expect(rig.log.count('append')).toBe(2);
    await shard.close();
  });

  test('messages of many megabytes are cut into several batches', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const big = { text: 'x'.repeat(800_000) };
    await shard.handle(
      rig.next(...Array.from({ length: 12 }, (_, n) => startOf(String(n + 1), 'job', big))),
    );
    expect(rig.log.count('append')).toBe(3);
    expect(rig.memory.db.shard(0).nextOffset).toBe(12n);
    await shard.close();
  });

  test('a gap is asked for once, and gone on behind when its messages are gone', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    rig.next(startOf('1'), startOf('2'));
    const later = rig.next(startOf('3'));
    expect(await shard.handle(later)).toEqual({ resumeAt: 0n });
    expect(rig.types('3')).toEqual([]);
    expect(await shard.handle(later)).toBeUndefined();
    expect(rig.types('3')).toHaveLength(2);
    expect(rig.memory.db.shard(0).nextOffset).toBe(3n);
    await shard.close();
  });

  test('a gap that could not be asked for, since its batch failed, is asked for the next time', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await shard.handle(rig.next(startOf('1', 'alarm', { ms: 1_000 })));
    const before = held();
    rig.log.next(
      'append',
      before.fate,
      failing(() => new Error('too many open files')),
    );
    const handled = [shard.handle(rig.next(startOf('2')))];
    await before.reached;
    // Into the next batch come what lies behind the gap, and a timer, which makes it write.
    await rig.clock.advance(1_000);
    rig.next(startOf('3'));
    handled.push(shard.handle(rig.next(startOf('4'))));
    before.release();
    await settle();
    await rig.clock.advance(250);
    expect(await Promise.all(handled)).toEqual([undefined, { resumeAt: 2n }]);
    expect(rig.types('1').at(-1)).toBe('SagaCompleted');
    expect(rig.types('4')).toEqual([]);
    await shard.close();
  });
});

describe('failures of the log', () => {
  test('a database that is away for minutes delays the batch, and nothing else', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    rig.log.always('append', failing());
    const handled = shard.handle(rig.next(startOf('1')));
    await rig.clock.advance(180_000);
    expect(rig.types('1')).toEqual([]);
    rig.log.heal();
    await rig.clock.advance(250);
    await handled;
    expect(rig.types('1')).toEqual(['SagaStarted', 'StepRequested']);
    await until('its command is out', () => rig.commands().length === 1);
    await shard.close();
  });

  test('a failed read gives the messages back to the bus, and the next try applies them', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const messages = rig.next(startOf('1'));
    rig.log.next('load', failing());
    await expect(shard.handle(messages)).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    const again = shard.handle(messages);
    await rig.clock.advance(250);
    await again;
    expect(rig.types('1')).toHaveLength(2);
    expect(rig.losses).toEqual([]);
    await shard.close();
  });

  test.each([
    ['done', answerLost, 2],
    ['not done', unknownNotDone, 0],
  ])(
    'a commit of unknown outcome that was %s: the shard is lost, and read anew',
    async (_, fate, found) => {
      const rig = await shardRig();
      const shard = await rig.open();
      const messages = rig.next(startOf('1'));
      rig.log.next('append', fate);
      await expect(shard.handle(messages)).rejects.toMatchObject({ code: 'COMMIT_UNKNOWN' });
      expect(rig.losses).toEqual(['unknown']);
      expect(rig.types('1')).toHaveLength(found);
      await expect(shard.handle(messages)).rejects.toBeInstanceOf(FencedError);
      const next = await rig.open();
      await next.handle(messages);
      expect(rig.types('1')).toEqual(['SagaStarted', 'StepRequested']);
      await until('its command is out, once or more', () => rig.commands().includes('1.1'));
      await Promise.all([shard.close(), next.close()]);
    },
  );

  test('a fenced shard drops what waits and publishes nothing that did not commit (I2)', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const append = held();
    rig.log.next('append', append.fate);
    const first = shard.handle(rig.next(startOf('1')));
    await append.reached;
    const second = shard.handle(rig.next(startOf('2')));
    await rig.memory.shardLeases.acquire(0, 'thief', 10_000, { steal: true });
    append.release();
    await expect(first).rejects.toBeInstanceOf(FencedError);
    await expect(second).rejects.toBeInstanceOf(FencedError);
    expect(rig.losses).toEqual(['fenced']);
    await shard.close();
    expect(rig.commands()).toEqual([]);
    expect(rig.memory.db.byShard[0]).toEqual([]);
  });

  test('a batch that the log refuses as out of order is not tried again from the same memory', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const messages = rig.next(startOf('1'));
    rig.log.next(
      'append',
      failing(() => new SagaxError('INTERNAL', 'A batch is out of order.')),
    );
    await expect(shard.handle(messages)).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(rig.losses).toEqual(['stale']);
    await shard.close();
    const next = await rig.open();
    await next.handle(messages);
    expect(rig.types('1')).toHaveLength(2);
    await next.close();
  });
});

describe('inputs that can not be applied', () => {
  /** As Postgres does for an id beyond 2^63: the statement fails for all ids in it. */
  const refusing = (rig: Awaited<ReturnType<typeof shardRig>>, bad: string) => (): void => {
    const load = rig.memory.eventLog.load;
    rig.memory.eventLog.load = (ids, options) =>
      ids.includes(bad)
        ? Promise.reject(new Error(`value "${bad}" is out of range for type bigint`))
        : load(ids, options);
  };

  test('one that breaks every statement it is in is found by halving, and parked', async () => {
    const rig = await shardRig();
    refusing(rig, '77')();
    const shard = await rig.open();
    const ids = Array.from({ length: 40 }, (_, n) => String(n + 60));
    const handled = shard.handle(rig.next(...ids.map((id) => startOf(id))));
    await rig.clock.advance(250);
    await handled;
    for (const id of ids) expect(rig.types(id)).toHaveLength(id === '77' ? 0 : 2);
    expect(rig.memory.db.deadLetters).toMatchObject([{ code: 'INTERNAL', offset: 17n }]);
    expect(rig.memory.db.deadLetters[0]?.reason).toContain('out of range');
    expect(rig.memory.db.shard(0).nextOffset).toBe(40n);
    expect(rig.losses).toEqual([]);
    await shard.close();
  });

  test.each(['load', 'append'] as const)(
    'one that stands alone and fails once by chance (%s) is applied',
    async (method) => {
      const rig = await shardRig();
      const shard = await rig.open();
      rig.log.next(
        method,
        failing(() => Object.assign(new Error('too many open files'), { code: 'EMFILE' })),
      );
      const handled = shard.handle(rig.next(startOf('1')));
      await rig.clock.advance(250);
      await handled;
      expect(rig.memory.db.deadLetters).toEqual([]);
      expect(rig.types('1')).toHaveLength(2);
      await shard.close();
    },
  );

  test('nothing is parked while the log can not be read at all', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    rig.log.always(
      'load',
      failing(() => new Error('relation "sagax.events" does not exist')),
    );
    const messages = rig.next(startOf('1'), startOf('2'));
    const refused = shard.handle(messages);
    refused.catch(() => undefined);
    await rig.clock.advance(250);
    await expect(refused).rejects.toThrow('does not exist');
    expect(rig.memory.db.deadLetters).toEqual([]);
    rig.log.heal();
    const again = shard.handle(messages);
    await rig.clock.advance(250);
    await again;
    expect(rig.types('2')).toHaveLength(2);
    await shard.close();
  });

  test('a bus that is away holds up commands, not the log', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    rig.bus.always('publish', failing(busAway));
    const messages = rig.next(startOf('1'));
    await shard.handle(messages);
    expect(rig.types('1')).toHaveLength(2);
    rig.bus.heal();
    await rig.clock.advance(2_000);
    expect(rig.commands()).toEqual(['1.1']);
    await shard.close();
  });
});

describe('closing', () => {
  test('ends the running batch, publishes it, and keeps how far it got', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    const append = held();
    rig.log.next('append', append.fate);
    const handled = shard.handle(rig.next(startOf('1')));
    await append.reached;
    const closed = shard.close();
    append.release();
    await Promise.all([handled, closed]);
    expect(rig.commands()).toEqual(['1.1']);
    expect(rig.memory.db.shard(0).publishedSeq).toBe(2);
    await expect(shard.handle(rig.next(startOf('2')))).rejects.toBeInstanceOf(FencedError);
  });

  test('is bounded though the database is away, and what waited comes again', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    rig.log.always('append', failing(unavailable));
    const handled = shard.handle(rig.next(startOf('1')));
    handled.catch(() => undefined);
    const closed = shard.close();
    await rig.clock.advance(5_000);
    await closed;
    await expect(handled).rejects.toBeInstanceOf(FencedError);
  });

  test('is bounded though the bus is away, and nothing is written behind its back', async () => {
    const rig = await shardRig();
    rig.bus.always('publish', failing(busAway));
    const shard = await rig.open();
    await shard.handle(rig.next(startOf('1')));
    const closed = shard.close();
    await rig.clock.advance(5_000);
    await closed;
    await settle();
    expect(rig.memory.db.shard(0).publishedSeq).toBe(0);
    rig.bus.heal();
    const next = await rig.open();
    await until('the next owner publishes it', () => rig.commands().length === 1);
    await next.close();
  });

  test('without work the published position is written within a second', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await shard.handle(rig.next(startOf('1')));
    await until('published', () => rig.commands().length === 1);
    await rig.clock.advance(1_000);
    expect(rig.memory.db.shard(0).publishedSeq).toBe(2);
    await shard.close();
  });
});
