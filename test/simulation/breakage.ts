/** Where a deliberate break takes hold: a port or a core function that is handed to the runtime, wrapped. */
import type { decide } from '../../engine/core/decide.ts';
import type { MemoryBroker, MemoryDatabase } from '../../engine/memory/index.ts';
import type { Bus, Clock, EventLog, NodeIdLeases, ShardLeases } from '../../engine/ports.ts';
import type { ParticipantStore } from '../../workers/ports.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';

/** The lasting state, for breaks that damage it as no port could. */
export interface Lasting {
  db: MemoryDatabase;
  broker: MemoryBroker;
}

export interface Breakage {
  eventLog?: (log: EventLog, lasting: Lasting) => EventLog;
  shardLeases?: (leases: ShardLeases, lasting: Lasting) => ShardLeases;
  /** The engine's bus. */
  bus?: (bus: Bus, lasting: Lasting) => Bus;
  /** The engine's clock. */
  clock?: (clock: Clock) => Clock;
  nodeIds?: (leases: NodeIdLeases) => NodeIdLeases;
  decide?: typeof decide;
  store?: (store: ParticipantStore<MemoryTx>) => ParticipantStore<MemoryTx>;
}
