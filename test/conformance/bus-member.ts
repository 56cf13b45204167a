/**
 * A member of a consumer group as a process of its own, to be killed: `node bus-member.ts <json>`.
 * Prints one line per partition that it gets, and never commits.
 */
import type { Bus } from '../../engine/ports.ts';

interface MemberSpec {
  kind: 'kafka' | 'postgres';
  brokers?: string[];
  sessionTimeoutMs?: number;
  databaseUrl?: string;
  group: string;
  topic: string;
}

const spec = JSON.parse(process.argv[2] ?? '{}') as MemberSpec;

async function openBus(): Promise<Bus> {
  if (spec.kind === 'kafka') {
    const { createKafkaBus } = await import('../../engine/kafka/bus.ts');
    return createKafkaBus({
      brokers: spec.brokers ?? [],
      sessionTimeoutMs: spec.sessionTimeoutMs ?? 6_000,
    });
  }
  const { createPostgresBus } = await import('../../engine/postgres/bus.ts');
  return createPostgresBus({ url: spec.databaseUrl ?? '' });
}

const bus = await openBus();
bus.subscribe({
  group: spec.group,
  topics: [spec.topic],
  onAssigned: (topic, partition) => {
    console.log(`+${topic}/${partition}`);
    return Promise.resolve(null);
  },
  onBatch: () => new Promise(() => undefined),
});
