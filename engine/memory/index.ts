/**
 * Every port in memory, opened at once: for fast tests, test kits, and the simulator.
 *
 * Plain use: `openMemory({ shards: 4, clock })`. In a simulated world: one `MemoryDatabase` and one
 * `MemoryBroker` for the world, and `memoryPorts(db, broker, node)` for each process.
 */
import type { Bus, Clock, EventLog, NodeIdLeases, ShardLeases } from '../ports.ts';
import type { DeadLetters, SagaReader, StartKeys } from '../ports-read.ts';
import { MemoryBroker, type BrokerOptions } from './broker.ts';
import { memoryBus, type MemoryBusOptions } from './bus.ts';
import { systemClock } from './clock.ts';
import { MemoryDatabase } from './database.ts';
import { memoryDeadLetters } from './dead-letters.ts';
import { memoryEventLog } from './event-log.ts';
import { PlainHost, type Host } from './host.ts';
import { memoryNodeIds } from './node-ids.ts';
import { memoryReader } from './reader.ts';
import { memoryShardLeases } from './shard-leases.ts';
import { memoryStartKeys } from './start-keys.ts';

export interface MemoryPorts {
  host: Host;
  clock: Clock;
  eventLog: EventLog;
  shardLeases: ShardLeases;
  nodeIds: NodeIdLeases;
  bus: Bus;
  reader: SagaReader;
  startKeys: StartKeys;
  deadLetters: DeadLetters;
}

/** The ports of one process over a lasting state that others share. */
export function memoryPorts(
  db: MemoryDatabase,
  broker: MemoryBroker,
  host: Host,
  options?: MemoryBusOptions & { busInLog?: boolean },
): MemoryPorts {
  return {
    host,
    clock: host.clock,
    eventLog: memoryEventLog(db, host, options?.busInLog === true ? broker : undefined),
    shardLeases: memoryShardLeases(db, host),
    nodeIds: memoryNodeIds(db, host),
    bus: memoryBus(broker, host, options),
    reader: memoryReader(db, host),
    startKeys: memoryStartKeys(db, host),
    deadLetters: memoryDeadLetters(db, host),
  };
}

export interface MemoryOptions {
  shards?: number;
  /** Default: the machine's own clock. */
  clock?: Clock;
  broker?: BrokerOptions;
  /** Whether what a batch has to say goes out with its commit, as where the bus is in the log's database. Default false. */
  busInLog?: boolean;
}

/** A lasting state of its own with one plain host on it; `another()` is a further process on the same state. */
export function openMemory(options: MemoryOptions = {}): MemoryPorts & {
  host: PlainHost;
  db: MemoryDatabase;
  broker: MemoryBroker;
  another: (name?: string) => MemoryPorts & { host: PlainHost };
} {
  const clock = options.clock ?? systemClock;
  const db = new MemoryDatabase({ shards: options.shards ?? 4, now: () => clock.now() });
  const broker = new MemoryBroker(options.broker);
  const open = (name: string): MemoryPorts & { host: PlainHost } => {
    const host = new PlainHost(clock, name);
    return { ...memoryPorts(db, broker, host, { busInLog: options.busInLog ?? false }), host };
  };
  return { ...open('host'), db, broker, another: (name = 'another') => open(name) };
}

export { memoryAccess, type MemoryAccess } from './access.ts';
export { MemoryBroker } from './broker.ts';
export { memoryBus } from './bus.ts';
export { ManualClock, settle, systemClock } from './clock.ts';
export { MemoryDatabase } from './database.ts';
export { CALM, type FaultPlan } from './faults.ts';
export { PlainHost, type Host } from './host.ts';
export { Random } from './random.ts';
export { World, WorldNode, WORLD_START_MS } from './scheduler.ts';
