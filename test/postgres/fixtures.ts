/** Batches for tests of the event log: streams that grow one event at a time, in a shard's order. */
import type { LoggedEvent, SagaEvent } from '../../engine/core/events.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import type { SagaSummary, ShardBatch, ShardLease } from '../../engine/ports.ts';

/** 2026-03-02, a Monday. */
export const T0 = Date.UTC(2026, 2, 2);

let made = 0;
/** A new saga id; time T0, or that of `ms`. */
export function sagaId(ms: number = T0): string {
  made += 1;
  return composeSnowflake(ms, 1 + Math.floor(made / 4096), made % 4096);
}

export const noted = (n: number): SagaEvent => ({ type: 'TimerFired', timerId: `t${n}` });
export const requested = (commandId: string): SagaEvent => ({
  type: 'StepRequested',
  commandId,
  step: 'reserve',
  actorId: 'reserve',
  class: 'compensatable',
  command: 'inventory.reserve-stock',
  input: { sku: 'a' },
});

/** A shard as its owner sees it: hands out shard_seqs and stream versions. */
export class Writer {
  readonly lease: ShardLease;
  nextSeq: number;
  readonly versions = new Map<string, number>();

  constructor(lease: ShardLease) {
    this.lease = lease;
    this.nextSeq = lease.nextSeq;
  }

  event(saga: string, event: SagaEvent): LoggedEvent {
    const streamVersion = (this.versions.get(saga) ?? 0) + 1;
    this.versions.set(saga, streamVersion);
    return {
      sagaId: saga,
      namespace: 'default',
      streamVersion,
      shard: this.lease.shard,
      shardSeq: this.nextSeq++,
      epoch: this.lease.epoch,
      at: T0 + this.nextSeq,
      event,
    };
  }

  batch(parts: Partial<ShardBatch> = {}): ShardBatch {
    return {
      shard: this.lease.shard,
      epoch: this.lease.epoch,
      events: [],
      wakeups: [],
      summaries: [],
      snapshots: [],
      deadLetters: [],
      ...parts,
    };
  }
}

export function summary(saga: string, parts: Partial<SagaSummary> = {}): SagaSummary {
  return {
    sagaId: saga,
    namespace: 'default',
    definition: 'order',
    definitionVersion: 1,
    status: 'running',
    state: 'reserving',
    businessKey: null,
    attributes: {},
    streamVersion: 1,
    startedAt: T0,
    updatedAt: T0,
    endedAt: null,
    pivotPassed: false,
    failureCode: null,
    failureMessage: null,
    output: null,
    ...parts,
  };
}

export async function taken(lease: Promise<ShardLease | null>): Promise<ShardLease> {
  const got = await lease;
  if (got === null) throw new Error('The shard is leased to another.');
  return got;
}
