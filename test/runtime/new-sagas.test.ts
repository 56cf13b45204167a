/** Starts that the log is not read for: only what can't be there, and a wrong guess costs a shard's memory, never a stream. */
import { describe, expect, test } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { NewSagas } from '../../engine/runtime/new-sagas.ts';
import { doneOf, shardRig, startOf, type ShardRig } from './support.ts';

const OPENED = Date.UTC(2026, 0, 1);
const id = (ms: number, sequence = 0): string => composeSnowflake(ms, 1, sequence);

describe('what is new', () => {
  test.each([
    ['made well after the opening, just now', 60_000, 60_000, true],
    ['made just after the opening: its clock may be ahead', 10_000, 10_000, false],
    ['made before the opening', -1, 60_000, false],
    ['made a while ago: we may have forgotten that we started it', 60_000, 71_000, false],
    ['made far in the future', 120_000, 60_000, false],
  ])('%s', (_, made, now, isNew) => {
    expect(new NewSagas(OPENED).isNew(id(OPENED + made), OPENED + now)).toBe(isNew);
  });

  test('not what was started here, for as long as it could be taken for new', () => {
    const sagas = new NewSagas(OPENED);
    const [saga, other] = [id(OPENED + 60_000), id(OPENED + 60_000, 1)];
    sagas.started(saga, OPENED + 60_000);
    for (let now = OPENED + 60_000; now < OPENED + 80_000; now += 1_000) {
      sagas.started(id(now, 7), now);
      expect(sagas.isNew(saga, now)).toBe(false);
      expect(sagas.isNew(other, now)).toBe(now < OPENED + 70_000);
    }
  });
});

describe('a shard', () => {
  async function rigged(
    capacity = 100,
  ): Promise<{ rig: ShardRig; open: () => ReturnType<ShardRig['open']>; made: () => string }> {
    const rig = await shardRig();
    let sequence = 0;
    return {
      rig,
      open: () => rig.open({ capacity }),
      made: () => id(Math.floor(rig.clock.now()), ++sequence),
    };
  }

  test('does not read the log for a new saga, and reads it for one that may be there', async () => {
    const { rig, open, made } = await rigged();
    const shard = await open();
    const early = made();
    await shard.handle(rig.next(startOf(early)));
    expect(rig.log.count('load')).toBe(1);
    await rig.clock.advance(60_000);
    const fresh = made();
    await shard.handle(rig.next(startOf(fresh)));
    expect(rig.log.count('load')).toBe(1);
    await shard.handle(rig.next(doneOf(fresh)));
    expect(rig.types(fresh).at(-1)).toBe('SagaCompleted');
    await shard.close();
  });

  test('knows a repeated start though it has the saga no more in memory', async () => {
    const { rig, open, made } = await rigged(1);
    const shard = await open();
    await rig.clock.advance(60_000);
    const sagas = Array.from({ length: 5 }, made);
    await shard.handle(rig.next(...sagas.map((saga) => startOf(saga))));
    expect(rig.log.count('load')).toBe(0);
    await shard.handle(rig.next(...sagas.map((saga) => startOf(saga))));
    expect(rig.losses).toEqual([]);
    for (const saga of sagas) expect(rig.types(saga)).toEqual(['SagaStarted', 'StepRequested']);
    await shard.close();
  });

  test('that guesses wrong (an id whose clock was ahead) is refused by the log, and right when it is read anew', async () => {
    const { rig, open } = await rigged();
    const before = await open();
    const ahead = id(Math.floor(rig.clock.now()) + 60_000);
    await before.handle(rig.next(startOf(ahead)));
    await before.close();
    const shard = await open();
    await rig.clock.advance(60_000);
    const repeat = rig.next(startOf(ahead));
    await expect(shard.handle(repeat)).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(rig.losses).toEqual(['stale']);
    expect(rig.types(ahead)).toEqual(['SagaStarted', 'StepRequested']);
    const next = await open();
    await next.handle(repeat);
    expect(rig.losses).toEqual(['stale']);
    expect(rig.types(ahead)).toEqual(['SagaStarted', 'StepRequested']);
    await next.close();
  });
});
