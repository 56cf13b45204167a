/** From what the reading ports give to what the API answers: camelCase, ids as strings, times as ISO 8601. */
import type { LoggedEvent } from '../engine/core/events.ts';
import type { SagaSummary } from '../engine/ports.ts';
import type { StoredDeadLetter } from '../engine/ports-read.ts';
import { hasEnded } from './watch.ts';
import type { HistoryEvent, ResultAnswer, SagaAnswer } from './schemas.ts';

const iso = (ms: number): string => new Date(ms).toISOString();

/** Path under which a namespace's resources are found; `default` needs no name. */
export function basePath(namespace: string): string {
  return namespace === 'default' ? '/v1' : `/v1/namespaces/${namespace}`;
}

export function sagaPath(namespace: string, sagaId: string): string {
  return `${basePath(namespace)}/sagas/${sagaId}`;
}

export function sagaLinks(namespace: string, sagaId: string): { [relation: string]: string } {
  const self = sagaPath(namespace, sagaId);
  return {
    self,
    result: `${self}/result`,
    history: `${self}/history`,
    stream: `${self}/history/stream`,
  };
}

function failureOf(summary: SagaSummary): { code: string; message: string } | null {
  if (summary.failureCode === null) return null;
  return { code: summary.failureCode, message: summary.failureMessage ?? '' };
}

export function sagaView(summary: SagaSummary): SagaAnswer {
  const { namespace, sagaId } = summary;
  return {
    sagaId,
    namespace,
    definition: summary.definition,
    version: summary.definitionVersion,
    status: summary.status,
    state: summary.state,
    businessKey: summary.businessKey,
    attributes: summary.attributes,
    streamVersion: summary.streamVersion,
    startedAt: iso(summary.startedAt),
    updatedAt: iso(summary.updatedAt),
    endedAt: summary.endedAt === null ? null : iso(summary.endedAt),
    pivotPassed: summary.pivotPassed,
    failure: failureOf(summary),
    output: summary.output,
    links: {
      ...sagaLinks(namespace, sagaId),
      definition: `${basePath(namespace)}/definitions/${summary.definition}/versions/${summary.definitionVersion}`,
    },
  };
}

export function resultView(summary: SagaSummary): ResultAnswer {
  return {
    sagaId: summary.sagaId,
    status: summary.status,
    output: hasEnded(summary) ? summary.output : null,
    failure: failureOf(summary),
    links: sagaLinks(summary.namespace, summary.sagaId),
  };
}

export function historyView(logged: LoggedEvent): HistoryEvent {
  const { type, ...data } = logged.event;
  return { streamVersion: logged.streamVersion, at: iso(logged.at), type, data };
}

export function deadLetterView(letter: StoredDeadLetter) {
  return {
    id: letter.id,
    topic: letter.topic,
    partition: letter.partition,
    offset: letter.offset.toString(),
    key: letter.key,
    headers: letter.headers,
    value: letter.value,
    code: letter.code,
    reason: letter.reason,
    at: iso(letter.at),
    redrivenAt: letter.redrivenAt === null ? null : iso(letter.redrivenAt),
    links: {
      self: `/v1/dead-letters/${letter.id}`,
      redrive: `/v1/dead-letters/${letter.id}/redrive`,
    },
  };
}

export const isoOrNull = (ms: number | null): string | null => (ms === null ? null : iso(ms));
