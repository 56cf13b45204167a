/** `SagaReader` in memory: what the API looks at. */
import type { LoggedEvent } from '../core/events.ts';
import type { SagaSummary } from '../ports.ts';
import { HISTORY_BYTES, type SagaQuery, type SagaReader } from '../ports-read.ts';
import { parseEvent, type MemoryDatabase } from './database.ts';
import type { Host } from './host.ts';

export function memoryReader(db: MemoryDatabase, host: Host): SagaReader {
  const find = (namespace: string, sagaId: string): SagaSummary | null => {
    const summary = db.summaries.get(sagaId);
    return summary?.namespace === namespace ? structuredClone(summary) : null;
  };
  return {
    get: (namespace, sagaId) =>
      host.io({ point: 'reader.get', work: () => find(namespace, sagaId) }),
    getMany: (keys) =>
      host.io({
        point: 'reader.getMany',
        work: () =>
          keys
            .map(({ namespace, sagaId }) => find(namespace, sagaId))
            .filter((summary) => summary !== null),
      }),
    list: (query) => host.io({ point: 'reader.list', work: () => list(db, query) }),
    history: (sagaId, afterVersion, limit, maxBytes = HISTORY_BYTES) =>
      host.io({
        point: 'reader.history',
        work: () => history(db, sagaId, afterVersion, { limit, maxBytes }),
      }),
    // Nothing is dropped here.
    isKept: () => Promise.resolve(true),
    shards: () =>
      host.io({
        point: 'reader.shards',
        work: () => db.shards.map((row) => ({ ...row, nextOffset: row.nextOffset.toString() })),
      }),
    ping: () => host.io({ point: 'reader.ping', work: () => undefined }),
  };
}

function history(
  db: MemoryDatabase,
  sagaId: string,
  afterVersion: number,
  { limit, maxBytes }: { limit: number; maxBytes: number },
): LoggedEvent[] {
  let bytes = 0;
  return (db.streams.get(sagaId) ?? [])
    .filter((event) => event.streamVersion > afterVersion)
    .slice(0, limit)
    .filter(({ text }) => {
      const isWithin = bytes < maxBytes;
      bytes += Buffer.byteLength(text);
      return isWithin;
    })
    .map(parseEvent);
}

function list(db: MemoryDatabase, query: SagaQuery): SagaSummary[] {
  const before = query.beforeSagaId === undefined ? null : BigInt(query.beforeSagaId);
  return [...db.summaries.values()]
    .filter((summary) => matches(summary, query))
    .filter((summary) => before === null || BigInt(summary.sagaId) < before)
    .sort((a, b) => (BigInt(a.sagaId) < BigInt(b.sagaId) ? 1 : -1))
    .slice(0, query.limit)
    .map((summary) => structuredClone(summary));
}

function matches(summary: SagaSummary, query: SagaQuery): boolean {
  return (
    summary.namespace === query.namespace &&
    (query.definition === undefined || summary.definition === query.definition) &&
    (query.definitionVersion === undefined ||
      summary.definitionVersion === query.definitionVersion) &&
    (query.status === undefined || query.status.includes(summary.status)) &&
    (query.businessKey === undefined || summary.businessKey === query.businessKey) &&
    (query.startedFrom === undefined || summary.startedAt >= query.startedFrom) &&
    (query.startedBefore === undefined || summary.startedAt < query.startedBefore) &&
    Object.entries(query.attributes ?? {}).every(
      ([name, value]) => summary.attributes[name] === value,
    )
  );
}
