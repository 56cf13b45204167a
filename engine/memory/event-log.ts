/**
 * `EventLog` in memory: one batch, one atomic, fenced step (I1, I2, I4), as the Postgres adapter's.
 */
import { CommitUnknownError, FencedError, SagaxError } from '../core/errors.ts';
import type { LoggedEvent } from '../core/events.ts';
import { canonicalJson } from '../core/json.ts';
import { OUTBOX_EVENTS, type EventLog, type SagaSnapshot, type ShardBatch } from '../ports.ts';
import type { MemoryBroker } from './broker.ts';
import { parseEvent, type MemoryDatabase, type ShardRow, type StoredEvent } from './database.ts';
import type { Host } from './host.ts';

/** @param bus set when the bus is in the same database, so that what a batch has to say goes out with it */
export function memoryEventLog(db: MemoryDatabase, host: Host, bus?: MemoryBroker): EventLog {
  return {
    append: (given) => {
      const said = bus === undefined ? [] : structuredClone(given.messages?.() ?? []);
      const batch = said.length === 0 ? given : { ...given, publishedSeq: lastSeq(given) };
      // Taken down now: what the caller changes after the call must not reach the log.
      const events = batch.events.map(toStored);
      const snapshots = batch.snapshots.map((snapshot) => canonicalJson(snapshot));
      return host.io({
        point: 'log.append',
        work: () => {
          bus?.assertKnown(said);
          appendBatch(db, batch, events, snapshots);
          bus?.append(said);
          return { published: said.length > 0 };
        },
        unknown: () =>
          new CommitUnknownError(
            `The connection broke while a batch of shard ${batch.shard} was committed; read its position before going on.`,
          ),
      });
    },
    load: (sagaIds, options) =>
      host.io({
        point: 'log.load',
        work: () => loadStreams(db, sagaIds, options?.ignoreSnapshots === true),
      }),
    readOutbox: (shard, afterSeq, limit) =>
      host.io({
        point: 'log.readOutbox',
        work: () => readOutbox(db, shard, afterSeq, limit),
      }),
    dueWakeups: (shard, until, limit) =>
      host.io({
        point: 'log.dueWakeups',
        work: () =>
          [...(db.wakeups[shard] ?? [])]
            .filter(([, dueAt]) => dueAt <= until)
            .map(([sagaId, dueAt]) => ({ sagaId, dueAt }))
            .sort((a, b) => a.dueAt - b.dueAt || (a.sagaId < b.sagaId ? -1 : 1))
            .slice(0, limit),
      }),
  };
}

function lastSeq({ events }: ShardBatch): number {
  return events.at(-1)?.shardSeq ?? 0;
}

function toStored(logged: LoggedEvent): StoredEvent {
  const { sagaId, shard, streamVersion, shardSeq, epoch, event } = logged;
  return {
    sagaId,
    shard,
    streamVersion,
    shardSeq,
    epoch,
    type: event.type,
    // As jsonb, it does not keep the order of keys: nothing may hang on it.
    text: canonicalJson(logged),
  };
}

function appendBatch(
  db: MemoryDatabase,
  batch: ShardBatch,
  events: readonly StoredEvent[],
  snapshots: readonly string[],
): void {
  const row = db.shard(batch.shard);
  if (row.epoch !== batch.epoch) {
    throw new FencedError(
      `Shard ${batch.shard} is at epoch ${row.epoch}; the writer's is ${batch.epoch}. Drop all memory of the shard.`,
    );
  }
  // All checks come before the first change, so that a refused batch leaves nothing behind.
  checkSequence(db, row, events);
  for (const event of events) {
    const stream = db.streams.get(event.sagaId);
    if (stream === undefined) db.streams.set(event.sagaId, [event]);
    else stream.push(event);
    db.byShard[row.shard]?.push(event);
  }
  row.nextSeq += events.length;
  if (batch.nextOffset !== undefined && batch.nextOffset > row.nextOffset) {
    row.nextOffset = batch.nextOffset;
  }
  if (batch.publishedSeq !== undefined && batch.publishedSeq > row.publishedSeq) {
    row.publishedSeq = batch.publishedSeq;
  }
  for (const { sagaId, dueAt } of batch.wakeups) {
    if (dueAt === null) db.wakeups[row.shard]?.delete(sagaId);
    else db.wakeups[row.shard]?.set(sagaId, dueAt);
  }
  for (const summary of batch.summaries) db.summaries.set(summary.sagaId, structuredClone(summary));
  batch.snapshots.forEach((snapshot, index) => {
    db.snapshots.set(snapshot.sagaId, snapshots[index] as string);
  });
  for (const letter of batch.deadLetters) {
    db.deadLetters.push({ ...letter, id: String(db.deadLetters.length + 1), redrivenAt: null });
  }
  db.observer.appended?.(batch, db.now());
}

/** A defect of the caller, not a race: the fence has held, so nobody else wrote. */
function checkSequence(db: MemoryDatabase, row: ShardRow, events: readonly StoredEvent[]): void {
  const versions = new Map<string, number>();
  events.forEach((event, index) => {
    if (event.shard !== row.shard || event.shardSeq !== row.nextSeq + index) {
      throw new SagaxError(
        'INTERNAL',
        `Event ${index} of the batch has shard ${event.shard}, shardSeq ${event.shardSeq}; shard ${row.shard} goes on at ${row.nextSeq + index}.`,
      );
    }
    const before = versions.get(event.sagaId) ?? db.streams.get(event.sagaId)?.length ?? 0;
    if (event.streamVersion !== before + 1) {
      throw new SagaxError(
        'INTERNAL',
        `Saga ${event.sagaId} goes on at stream version ${before + 1}, not ${event.streamVersion}.`,
      );
    }
    versions.set(event.sagaId, event.streamVersion);
  });
}

function loadStreams(
  db: MemoryDatabase,
  sagaIds: readonly string[],
  ignoreSnapshots: boolean,
): Map<string, { snapshot: SagaSnapshot | null; events: LoggedEvent[] }> {
  const out = new Map<string, { snapshot: SagaSnapshot | null; events: LoggedEvent[] }>();
  for (const sagaId of sagaIds) {
    const stream = db.streams.get(sagaId);
    if (stream === undefined) continue;
    const snapshot = ignoreSnapshots ? null : db.snapshot(sagaId);
    const after = snapshot?.streamVersion ?? 0;
    out.set(sagaId, {
      snapshot,
      events: stream.filter((event) => event.streamVersion > after).map(parseEvent),
    });
  }
  return out;
}

function readOutbox(
  db: MemoryDatabase,
  shard: number,
  afterSeq: number,
  limit: number,
): LoggedEvent[] {
  const events = db.byShard[shard] ?? [];
  const out: LoggedEvent[] = [];
  // shardSeq is gapless from 1 (I1), so the event behind `afterSeq` is at that index.
  for (let index = Math.max(0, afterSeq); index < events.length && out.length < limit; index++) {
    const event = events[index] as StoredEvent;
    if (OUTBOX_EVENTS.has(event.type)) out.push(parseEvent(event));
  }
  return out;
}
