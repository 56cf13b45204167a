/** The store in memory, under a clock that the test moves. */
import { ManualClock } from '../../../engine/memory/clock.ts';
import { ParticipantDatabase } from '../../../workers/memory/database.ts';
import { memoryStore } from '../../../workers/memory/store.ts';
import type { Gate, MemoryTx } from '../../../workers/memory/transaction.ts';
import type { StoreRig } from './stores.ts';

export interface MemoryRig extends StoreRig<MemoryTx> {
  readonly clock: ManualClock;
  readonly database: ParticipantDatabase;
  connect(gate?: Gate): ReturnType<typeof memoryStore>;
}

export function memoryRig(): MemoryRig {
  const clock = new ManualClock();
  const database = new ParticipantDatabase(() => clock.now());
  const connect = (gate?: Gate): ReturnType<typeof memoryStore> =>
    memoryStore(gate === undefined ? { database } : { database, gate });
  return {
    clock,
    database,
    connect,
    add: async (tx, key, by) => {
      const before = ((await tx.get(key)) ?? 0) as number;
      await tx.set(key, before + by);
    },
    count: async (key) => (database.values.get(key) ?? 0) as number,
    row: (commandId) => connect().transaction((barrier) => barrier.read(commandId)),
    letters: async () => database.deadLetters.length,
    elapse: (ms) => clock.advance(ms),
    close: async () => undefined,
  };
}
