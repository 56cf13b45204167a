/** The cache over the log: what comes back is what was there, and nothing cached is trusted over the log (I9). */
import { describe, expect, test } from 'vitest';
import { setup } from 'xstate';
import { decide } from '../../engine/core/decide.ts';
import { canonicalJson } from '../../engine/core/json.ts';
import { decodeInbox } from '../../engine/core/wire.ts';
import type { LoggedEvent } from '../../engine/core/events.ts';
import type { SagaState } from '../../engine/core/state.ts';
import type { EventLog, SagaSnapshot } from '../../engine/ports.ts';
import { summaryOf } from '../../engine/runtime/batch.ts';
import { createRegistry } from '../../engine/runtime/registry.ts';
import { SagaStore, snapshotOf, stateHash, type Entry } from '../../engine/runtime/saga-store.ts';
import { actors, define, ends } from '../core/machines.ts';
import { alarm, doneOf, job, Recorder, shardRig, signalOf, startOf } from './support.ts';

type Live = Extract<Entry, { kind: 'live' }>;

/** The stream of an alarm saga that was told `count` times, with its state after each event's batch. */
function told(sagaId: string, count: number): { events: LoggedEvent[]; states: SagaState[] } {
  const events: LoggedEvent[] = [];
  const states: SagaState[] = [];
  let state: SagaState | null = null;
  for (const message of [
    startOf(sagaId, 'alarm', { ms: 1_000_000 }),
    ...Array.from({ length: count }, () => signalOf(sagaId, 'tell')),
  ]) {
    const decision = decide(alarm, sagaId, state, decodeInbox(message), 5);
    if (decision.kind !== 'accepted') throw new Error(JSON.stringify(decision));
    state = decision.state;
    for (const event of decision.events) {
      const streamVersion = events.length + 1;
      events.push({
        sagaId,
        namespace: 'default',
        streamVersion,
        shard: 0,
        shardSeq: streamVersion,
        epoch: 1,
        at: 5,
        event,
      });
    }
    states.push(state);
  }
  return { events, states };
}

class Log {
  readonly streams = new Map<string, LoggedEvent[]>();
  readonly snapshots = new Map<string, SagaSnapshot>();
  readonly loaded: string[] = [];

  get port(): EventLog {
    const refuse = (): never => {
      throw new Error('not part of this test');
    };
    return {
      load: (ids, options) => {
        this.loaded.push(...ids);
        const found = new Map<string, { snapshot: SagaSnapshot | null; events: LoggedEvent[] }>();
        for (const id of ids) {
          const events = this.streams.get(id);
          if (events === undefined) continue;
          const snapshot =
            options?.ignoreSnapshots === true ? null : (this.snapshots.get(id) ?? null);
          const behind = events.filter((e) => e.streamVersion > (snapshot?.streamVersion ?? 0));
          found.set(id, structuredClone({ snapshot, events: behind }));
        }
        return Promise.resolve(found);
      },
      append: refuse,
      readOutbox: refuse,
      dueWakeups: refuse,
    };
  }
}

function rig(definitions = [alarm, job], capacity = 100) {
  const log = new Log();
  const telemetry = new Recorder();
  const deps = { eventLog: log.port, registry: createRegistry(definitions), telemetry, capacity };
  const store = new SagaStore(deps);
  const get = async (sagaId: string): Promise<Entry> =>
    (await store.get(new Set([sagaId]))).get(sagaId) ?? { kind: 'absent' };
  return { log, telemetry, store, get };
}

const live = (entry: Entry): Live => {
  if (entry.kind !== 'live') throw new Error(`It is ${entry.kind}.`);
  return entry;
};

describe('restoring', () => {
  test('gives at each version the state that was live then', async () => {
    const { events, states } = told('1', 12);
    for (const state of states) {
      const { log, get } = rig();
      log.streams.set('1', events.slice(0, state.streamVersion));
      expect(stateHash(live(await get('1')).state)).toBe(stateHash(state));
    }
  });

  test('a saga that was evicted comes back equal', async () => {
    const { events, states } = told('1', 3);
    const { log, store, get } = rig([alarm], 2);
    log.streams.set('1', events);
    const entry = live(await get('1'));
    store.put('1', entry);
    for (const other of ['2', '3']) store.put(other, entry);
    expect(store.size).toBe(2);
    expect(log.loaded).toEqual(['1']);
    expect(live(await get('1')).state).toEqual(states.at(-1));
    expect(log.loaded).toEqual(['1', '1']);
  });

  test('one read serves all that is missing', async () => {
    const { log, store } = rig();
    for (const id of ['1', '2', '3']) log.streams.set(id, told(id, 1).events);
    const entries = await store.get(new Set(['1', '2', '3', '4']));
    expect([...entries].map(([id, { kind }]) => [id, kind])).toEqual([
      ['1', 'live'],
      ['2', 'live'],
      ['3', 'live'],
      ['4', 'absent'],
    ]);
  });

  test.each([
    [
      'is of another definition',
      (events: LoggedEvent[]) => {
        const first = events[0]?.event as { definition: string };
        first.definition = 'job';
      },
    ],
    ['lacks an event', (events: LoggedEvent[]) => void events.splice(3, 1)],
    ['ends in the middle of a turn', (events: LoggedEvent[]) => void events.splice(1)],
    ['does not begin with a start', (events: LoggedEvent[]) => void events.splice(0, 1)],
  ])('a stream that %s stops its saga', async (_, spoil) => {
    const { log, get, telemetry } = rig();
    const { events } = told('1', 3);
    spoil(events);
    log.streams.set('1', events);
    expect(await get('1')).toMatchObject({ kind: 'unusable', error: { code: 'REPLAY_DIVERGED' } });
    expect(telemetry.of('replay_divergences_total')).toBe(1);
  });

  test('a version that this node does not know is no divergence', async () => {
    const { log, get, telemetry } = rig([job]);
    log.streams.set('1', told('1', 1).events);
    expect(await get('1')).toMatchObject({
      kind: 'unusable',
      error: { code: 'DEFINITION_UNKNOWN', message: expect.stringContaining('alarm@1') as string },
    });
    expect(telemetry.of('replay_divergences_total')).toBe(0);
  });
});

describe('snapshots', () => {
  const at = 5;
  const withSnapshot = (change: (snapshot: SagaSnapshot, log: Log) => void = () => undefined) => {
    const made = rig();
    const { events, states } = told('1', 8);
    const snapshot = structuredClone(snapshotOf(alarm, states[at] as SagaState));
    made.log.streams.set('1', events);
    made.log.snapshots.set('1', snapshot);
    change(snapshot, made.log);
    return { ...made, events, states };
  };

  test('one that fits is used: only what lies behind it is folded', async () => {
    const { get, states, telemetry, log } = withSnapshot((snapshot, { streams }) => {
      // Proof that it is used: of the events below it only the numbers are left.
      for (const event of streams.get('1') ?? [])
        if (event.streamVersion <= snapshot.streamVersion) event.event = { type: 'SagaPaused' };
    });
    const entry = live(await get('1'));
    expect(entry.state).toEqual(states.at(-1));
    expect(entry.snapshotVersion).toBe(states[at]?.streamVersion);
    expect(telemetry.of('snapshots_discarded_total')).toBe(0);
    expect(log.loaded).toEqual(['1']);
  });

  test('one that jsonb gave back shows its regions in the order in which they were', async () => {
    const region = { initial: 'asked', states: { asked: { on: { tell: 'told' } }, told: {} } };
    const machine = setup({ actors }).createMachine({
      id: 'm',
      type: 'parallel',
      states: { second: region, first: region },
    } as never);
    const definition = define(machine, { signals: ['tell'] });
    const start = startOf('1', definition.name, {});
    const decision = decide(definition, '1', null, decodeInbox(start), at);
    if (decision.kind !== 'accepted') throw new Error(JSON.stringify(decision));
    const { log, get } = rig([definition]);
    log.streams.set('1', []);
    const snapshot = snapshotOf(definition, decision.state);
    // jsonb keeps the keys of an object by length, then by their bytes.
    log.snapshots.set('1', JSON.parse(canonicalJson(snapshot)) as SagaSnapshot);
    const { state } = live(await get('1'));
    expect(summaryOf(state)).toEqual(summaryOf(decision.state));
    expect(summaryOf(state).state).toBe('second.asked,first.asked');
  });

  test.each<[string, (snapshot: SagaSnapshot) => void]>([
    ['whose state was changed', ({ state }) => ((state as { pivot: string }).pivot = 'passed')],
    ['of another definition hash', (snapshot) => (snapshot.definitionHash = 'other')],
    ['that says another version', (snapshot) => (snapshot.streamVersion += 0.5)],
    [
      'of another saga',
      (snapshot) => {
        const state = { ...(snapshot.state as unknown as SagaState), sagaId: '2' };
        Object.assign(snapshot, snapshotOf(alarm, state), { sagaId: '1' });
      },
    ],
    ['that is no state at all', (snapshot) => (snapshot.state = null)],
    [
      'that the log does not go on from',
      (snapshot) => {
        const state = { ...(snapshot.state as unknown as SagaState), phase: 'ended' as const };
        Object.assign(snapshot, snapshotOf(alarm, state));
      },
    ],
  ])('one %s is thrown away, counted, and the log refolded', async (_, change) => {
    const { get, states, telemetry } = withSnapshot(change);
    expect(live(await get('1')).state).toEqual(states.at(-1));
    expect(telemetry.of('snapshots_discarded_total')).toBe(1);
    expect(telemetry.of('replay_divergences_total')).toBe(0);
  });

  test('one of the same version before its definition was changed is never used', async () => {
    const changed = define(
      setup({ actors }).createMachine({
        context: { ms: 0, told: 0 },
        initial: 'waiting',
        states: { waiting: { on: { tell: {} } }, ...ends, undoing: { type: 'final' } } as never,
      }),
      { name: 'alarm', signals: ['tell'] },
    );
    const { events, states } = told('1', 8);
    const { log, get } = rig([changed]);
    log.streams.set('1', events);
    log.snapshots.set('1', snapshotOf(alarm, states[at] as SagaState));
    expect(await get('1')).toMatchObject({ kind: 'unusable', error: { code: 'REPLAY_DIVERGED' } });
  });

  test('a shard writes one after a hundred events, and a new owner starts from it', async () => {
    const shards = await shardRig();
    const shard = await shards.open();
    await shard.handle(shards.next(startOf('1', 'alarm', { ms: 9_000_000 })));
    for (let n = 0; n < 60; n++)
      await shard.handle(shards.next(signalOf('1', 'later'), signalOf('1', 'tell')));
    const snapshot = shards.memory.db.snapshot('1');
    expect(snapshot?.streamVersion).toBeGreaterThanOrEqual(100);
    const before = shards.memory.db.summaries.get('1');
    await shard.close();
    const next = await shards.open();
    await next.handle(shards.next(signalOf('1', 'tell')));
    expect(shards.telemetry.of('snapshots_discarded_total')).toBe(0);
    expect(shards.memory.db.summaries.get('1')?.streamVersion).toBe(
      (before?.streamVersion ?? 0) + 1,
    );
    await next.close();
  });
});

describe('ended sagas', () => {
  test('late and repeated answers to them read the log once', async () => {
    const shards = await shardRig();
    const shard = await shards.open();
    await shard.handle(shards.next(startOf('1'), doneOf('1')));
    const reads = shards.log.count('load');
    for (let n = 0; n < 5; n++) await shard.handle(shards.next(doneOf('1')));
    expect(shards.log.count('load')).toBe(reads);
    await shard.close();
    const next = await shards.open();
    for (let n = 0; n < 5; n++) await next.handle(shards.next(doneOf('1')));
    expect(shards.log.count('load')).toBe(reads + 1);
    expect(shards.types('1').at(-1)).toBe('SagaCompleted');
    await next.close();
  });

  test('as many are remembered as live ones may be kept', async () => {
    const shards = await shardRig();
    const shard = await shards.open({ capacity: 3 });
    for (let id = 1; id <= 5; id++)
      await shard.handle(shards.next(startOf(String(id)), doneOf(String(id))));
    const reads = shards.log.count('load');
    await shard.handle(shards.next(doneOf('5'), doneOf('4'), doneOf('3')));
    expect(shards.log.count('load')).toBe(reads);
    await shard.handle(shards.next(doneOf('1')));
    expect(shards.log.count('load')).toBe(reads + 1);
    await shard.close();
  });
});
