/** A log that has the bus beside it: what a batch has to say goes out with its commit, once and in order (I10). */
import { expect, test } from 'vitest';
import { CommitUnknownError, FencedError } from '../../engine/core/errors.ts';
import { settle } from '../../engine/memory/index.ts';
import {
  answerLost,
  busAway,
  doneOf,
  failing,
  idsIn,
  shardRig,
  startOf,
  TOPOLOGY,
  unavailable,
  until,
  type ShardRig,
} from './support.ts';

/** Sagas whose commands go to one partition, so that their order can be seen. */
const [A, B, C] = idsIn(0, TOPOLOGY.commandPartitions, 3) as [string, string, string];
const rigged = (): Promise<ShardRig> => shardRig(1, { busInLog: true });

test('commands are there when their events are, and are not published a second time', async () => {
  const rig = await rigged();
  const shard = await rig.open();
  await shard.handle(rig.next(startOf(A), startOf(B)));
  expect(rig.commands()).toEqual([`${A}.1`, `${B}.1`]);
  expect(rig.memory.db.shard(0)).toMatchObject({ nextSeq: 5, publishedSeq: 4 });
  await shard.handle(rig.next(doneOf(A)));
  expect(rig.types(A).at(-1)).toBe('SagaCompleted');
  expect(rig.telemetry.of('messages_published_total')).toBe(2);
  await shard.close();
  // The next owner finds nothing to publish again.
  const next = await rig.open();
  await rig.clock.advance(2_000);
  expect(rig.bus.count('publish')).toBe(0);
  expect(rig.commands()).toEqual([`${A}.1`, `${B}.1`]);
  await next.close();
});

test('a bus of its own may be away: nothing waits for it', async () => {
  const rig = await rigged();
  rig.bus.always('publish', failing(busAway));
  const shard = await rig.open();
  await shard.handle(rig.next(startOf(A)));
  expect(rig.commands()).toEqual([`${A}.1`]);
  await shard.close();
});

test('a fenced batch says nothing, and one that is written later says it once', async () => {
  const rig = await rigged();
  const old = await rig.open();
  const owner = await rig.open();
  const messages = rig.next(startOf(A));
  await expect(old.handle(messages)).rejects.toBeInstanceOf(FencedError);
  expect(rig.commands()).toEqual([]);
  rig.log.next('append', failing(unavailable));
  const handled = owner.handle(messages);
  await settle();
  expect(rig.commands()).toEqual([]);
  await rig.clock.advance(250);
  await handled;
  expect(rig.commands()).toEqual([`${A}.1`]);
  await owner.close();
});

test('when the answer to the commit is lost, what it said is not said again', async () => {
  const rig = await rigged();
  const shard = await rig.open();
  rig.log.next('append', answerLost);
  await expect(shard.handle(rig.next(startOf(A)))).rejects.toBeInstanceOf(CommitUnknownError);
  expect(rig.losses).toEqual(['unknown']);
  const next = await rig.open();
  await rig.clock.advance(2_000);
  expect(rig.commands()).toEqual([`${A}.1`]);
  await next.close();
});

test('what an earlier owner left unpublished goes out first', async () => {
  const rig = await shardRig(1, { busInLog: true });
  rig.bus.always('publish', failing(busAway));
  // A log that does not ask for messages, as with Kafka: its commands wait for the bus.
  const other = await rig.open({ log: { ...rig.memory.eventLog, append: withoutMessages(rig) } });
  await other.handle(rig.next(startOf(A)));
  const closed = other.close();
  await rig.clock.advance(5_000);
  await closed;
  expect(rig.commands()).toEqual([]);
  const owner = await rig.open();
  await owner.handle(rig.next(startOf(B)));
  expect(rig.commands()).toEqual([]);
  rig.bus.heal();
  await rig.clock.advance(2_000);
  await until('both are out', () => rig.commands().length === 2);
  expect(rig.commands()).toEqual([`${A}.1`, `${B}.1`]);
  // From then on they go with the commit again.
  await owner.handle(rig.next(startOf(C)));
  expect(rig.commands()).toEqual([`${A}.1`, `${B}.1`, `${C}.1`]);
  await owner.close();
});

function withoutMessages({ memory }: ShardRig): typeof memory.eventLog.append {
  return ({ messages: _, ...batch }) => memory.eventLog.append(batch);
}
