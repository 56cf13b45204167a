/** The memory bus on plain hosts: one broker, a host of its own for each bus that is opened. */
import { MemoryBroker, memoryBus, PlainHost, systemClock } from '../../engine/memory/index.ts';
import { busConformance, type ForeignMember } from './bus-conformance.ts';

busConformance('memory', () => {
  const broker = new MemoryBroker();
  const open = (host: PlainHost) => memoryBus(broker, host);
  return Promise.resolve({
    open: () => open(new PlainHost(systemClock)),
    publishRaw: (topic, partition, value) => {
      broker.appendRaw({
        topic,
        partition,
        key: 'raw',
        headers: {},
        value: value === null ? null : value.toString('utf8'),
      });
      return Promise.resolve();
    },
    spawnMember: (group, topic): Promise<ForeignMember> => {
      const host = new PlainHost(systemClock);
      const enough = new Map<number, () => void>();
      let owned = 0;
      open(host).subscribe({
        group,
        topics: [topic],
        onAssigned: () => {
          owned += 1;
          enough.get(owned)?.();
          return Promise.resolve(null);
        },
        onBatch: () => new Promise(() => undefined),
      });
      return Promise.resolve({
        owns: (count) =>
          owned >= count
            ? Promise.resolve()
            : new Promise((resolve) => enough.set(count, () => resolve())),
        kill: () => Promise.resolve(host.kill()),
      });
    },
    close: () => Promise.resolve(),
  });
});
