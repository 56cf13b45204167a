/**
 * Broken barriers: the cases of every node must notice each of them, or they prove nothing.
 *
 * Each break takes away one rule of the barrier from the store in memory.
 */
import { expect, test } from 'vitest';
import type { MemoryTx } from '../../../workers/memory/transaction.ts';
import type { Barrier, ParticipantStore } from '../../../workers/ports.ts';
import { memoryRig, type MemoryRig } from '../../workers/support/memory-rig.ts';
import { casesOf } from './faults.ts';
import { pumped } from './memory.ts';
import { WAYS } from './nodes.ts';
import { failuresOf, participantsOf, undisturbed, type Kind } from './suite.ts';

type Store = ParticipantStore<MemoryTx>;

const BREAKS: {
  name: string;
  kind: Kind;
  told: RegExp;
  break: (store: Store) => Partial<Store>;
}[] = [
  {
    name: 'a repeat runs again',
    kind: 'transactional',
    told: /twice.*(gets the first answer|ran 2 times)/,
    break: inBarrier((barrier) => ({
      insert: async (entry, state) => {
        await barrier.insert(entry, state);
        return true;
      },
    })),
  },
  {
    name: 'a settlement bars nothing',
    kind: 'transactional',
    told: /comes late.*behind its settlement is not run/,
    break: inBarrier((barrier) => ({
      insert: async (entry, state) =>
        state === 'superseded'
          ? (await barrier.read(entry.commandId)) === null
          : barrier.insert(entry, state),
    })),
  },
  {
    name: 'a rejection keeps the work that was done before it',
    kind: 'transactional',
    told: /rejected/,
    break: inBarrier(() => ({ rollbackToSavepoint: async () => undefined })),
  },
  {
    name: 'a compensation finds nothing to take back',
    kind: 'transactional',
    told: /was done 1 times and taken back 0 times/,
    break: inBarrier((barrier) => ({
      read: async (commandId) => {
        const row = await barrier.read(commandId);
        return row?.state === 'done' ? { ...row, state: 'superseded' } : row;
      },
    })),
  },
  {
    name: 'the answer of an effect is not kept',
    kind: 'effect',
    told: /twice.*(ran 2 times|gets the first answer)/,
    break: (store) => ({
      record: (commandId, fencingToken) => store.endLease(commandId, fencingToken),
    }),
  },
  {
    name: 'two claims at once',
    kind: 'effect',
    told: /at once/,
    break: (store) => ({
      claim: async (entry, leaseMs) => {
        const claim = await store.claim(entry, leaseMs);
        return claim.claimed || claim.row.state !== 'running'
          ? claim
          : { claimed: true, fencingToken: '1' };
      },
    }),
  },
];

function inBarrier(change: (barrier: Barrier<MemoryTx>) => Partial<Barrier<MemoryTx>>) {
  return (store: Store): Partial<Store> => ({
    transaction: (work) => store.transaction((barrier) => work(overlaid(barrier, change(barrier)))),
  });
}

/** The object with some of its methods in the place of its own. */
function overlaid<T extends object>(whole: T, part: Partial<T>): T {
  return new Proxy(whole, {
    get: (target, name) => {
      const own = Reflect.get(Object.hasOwn(part, name) ? part : target, name) as unknown;
      return typeof own === 'function' ? own.bind(target) : own;
    },
  });
}

const rigOf = (change: (store: Store) => Partial<Store>): MemoryRig => {
  const rig = memoryRig();
  const connect = (): ReturnType<MemoryRig['connect']> => {
    const store = rig.connect();
    return overlaid(store, change(store) as Partial<typeof store>);
  };
  return { ...rig, connect };
};

test.each(BREAKS)('$name: it is noticed', async ({ kind, told, break: change }) => {
  const way = WAYS.find(({ name }) => name === 'transfer')!;
  const options = { kind, whileTimePasses: pumped };
  const whole = await participantsOf(
    rigOf(() => ({})),
    options,
  );
  const { nodes, parallel } = await undisturbed(way, whole);
  const cases = casesOf(way, nodes, parallel);
  expect(await failuresOf(cases, nodes, whole, 1)).toEqual([]);
  const broken = await participantsOf(rigOf(change), options);
  const failures = await failuresOf(cases, nodes, broken, 1);
  expect(failures.join('\n')).toMatch(told);
});
