/**
 * `SagaReader` on Postgres: lists, single sagas, histories and shards, for people and the API.
 *
 * Guards that a list costs what it returns, however many sagas there are: each query walks an index in the
 * order of the answer and stops at its limit.
 */
import type pg from 'pg';
import { composeSnowflake, SNOWFLAKE_EPOCH_MS } from '../core/ids.ts';
import type { SagaStatus } from '../core/events.ts';
import type { SagaSummary } from '../ports.ts';
import { HISTORY_BYTES, type SagaQuery, type SagaReader } from '../ports-read.ts';
import { searchable } from './append.ts';
import { summariesOf } from './partitions.ts';
import type { Database } from './pool.ts';
import { EVENT_COLUMNS, fromJsonb, toId, toLoggedEvent, toText, type EventRow } from './rows.ts';

/** Most rows of any answer, whatever the caller asks for. */
const MAX_ROWS = 10_000;
/**
 * A saga's id is made when the start is accepted, `started_at` when its shard takes it up. The id's clock may
 * run 5 s ahead; the start may wait in the inbox, but no longer than this, beyond any bus's retention.
 */
const ID_AHEAD_MS = 60_000;
const ID_BEHIND_MS = 31 * 24 * 3_600_000;
/** Nearly all starts wait for no longer than this; those that did are looked for apart. */
const ID_NEAR_MS = 600_000;

const SUMMARY_COLUMNS = `saga_id, namespace, definition, definition_version, status, state, business_key, attributes,
  stream_version, started_at_ms, updated_at_ms, ended_at_ms, pivot_passed, failure_code, failure_message, output`;

interface SummaryRow {
  saga_id: string;
  namespace: string;
  definition: string;
  definition_version: number;
  status: SagaStatus;
  state: string;
  business_key: string | null;
  attributes: SagaSummary['attributes'];
  stream_version: number;
  started_at_ms: string;
  updated_at_ms: string;
  ended_at_ms: string | null;
  pivot_passed: boolean;
  failure_code: string | null;
  failure_message: string | null;
  output: unknown;
}

export function postgresReader(db: Database): SagaReader {
  const getMany: SagaReader['getMany'] = async (keys) => {
    const known = keys.filter(({ sagaId }) => toId(sagaId) !== null);
    if (known.length === 0) return [];
    const rows = await db.read<SummaryRow>({
      name: 'sagax-summaries',
      // Looked up one by one, so that each lookup goes to the one partition that can have it.
      text: `SELECT s.* FROM unnest($1::bigint[], $2::text[]) AS wanted (saga_id, namespace), LATERAL (
        SELECT ${SUMMARY_COLUMNS} FROM sagax.sagas s
        WHERE s.saga_id = wanted.saga_id AND s.namespace = wanted.namespace) s`,
      values: [known.map(({ sagaId }) => sagaId), known.map(({ namespace }) => namespace)],
    });
    return rows.map(toSummary);
  };
  return {
    getMany,
    get: async (namespace, sagaId) => (await getMany([{ namespace, sagaId }]))[0] ?? null,
    list: async (query) => (await db.read<SummaryRow>(listQuery(query))).map(toSummary),
    history: async (sagaId, afterVersion, limit, maxBytes = HISTORY_BYTES) => {
      if (toId(sagaId) === null) return [];
      const rows = await db.read<EventRow & { event: string }>({
        name: 'sagax-history',
        text: HISTORY,
        values: [sagaId, afterVersion, Math.min(limit, MAX_ROWS), maxBytes],
      });
      return rows.map((row) => toLoggedEvent({ ...row, event: JSON.parse(row.event) }));
    },
    isKept: async (sagaId) => {
      const [row] = await db.read<{ kept: boolean }>({
        name: 'sagax-week-kept',
        text: `SELECT to_regclass('sagax.' || $1) IS NOT NULL AS kept`,
        values: [summariesOf(sagaId)],
      });
      return row?.kept === true;
    },
    shards: () => shards(db),
    ping: async () => {
      await db.read({ text: 'SELECT 1' });
    },
  };
}

const NEXT_EVENT = `SELECT ${EVENT_COLUMNS.replace(/\bevent$/, 'event::text AS event')} FROM sagax.events
  WHERE saga_id = $1 AND stream_version > $after ORDER BY stream_version LIMIT 1`;
/**
 * Event by event along the primary key, so that none behind the one that fills the page is read: its size is known
 * only once it is a text, which is made once and is what is sent. A running sum over all that the limit allows would
 * unpack each of them; what they take on disk is quickly told but compressed, and a page could be a hundred times that.
 * A page of 20 events takes 0.29 ms in place of the 0.25 of one walk, one of a thousand 30 in place of 10. Rows come in
 * the order in which they were found.
 */
const HISTORY = `WITH RECURSIVE page AS (
  SELECT first.*, 1 AS events, octet_length(first.event)::bigint AS bytes
  FROM (${NEXT_EVENT.replace('$after', '$2')}) first WHERE $3::int > 0
  UNION ALL
  SELECT next.*, page.events + 1, page.bytes + octet_length(next.event)
  FROM page, LATERAL (${NEXT_EVENT.replace('$after', 'page.stream_version')}) next
  WHERE page.events < $3 AND page.bytes < $4
) SELECT ${EVENT_COLUMNS} FROM page`;

/**
 * The statement of a list. Not prepared: its shape follows the filters, and the plan its values.
 * Several statuses become one index walk each, merged: an index on (namespace, status, saga_id) gives no
 * order over more than one status.
 */
export function listQuery(query: SagaQuery): pg.QueryConfig {
  const values: unknown[] = [];
  const put = (value: unknown): string => `$${values.push(value)}`;
  const conditions = [`namespace = ${put(query.namespace)}`, ...filters(query, put)];
  const limit = `${put(Math.max(0, Math.min(query.limit, MAX_ROWS)))}::int`;
  const walk = (more: readonly string[], order = 'saga_id'): string =>
    `SELECT ${SUMMARY_COLUMNS} FROM sagax.sagas WHERE ${[...conditions, ...more].join(' AND ')}
     ORDER BY ${order} DESC LIMIT ${limit}`;
  const statuses = query.status === undefined ? null : [...new Set(query.status)];
  const groups = statuses?.map((status) => [`status = ${put(status)}`]) ?? [[]];
  if (groups.length === 0) return { text: walk(['false']), values };
  const { startedFrom } = query;
  if (startedFrom === undefined) {
    const walks = groups.map((group) => walk(group));
    return { text: merged(walks, limit), values };
  }
  // The bounds on the id say nothing new, but let the index walk and the partitions begin and end with them. Ids that
  // are much older than their start are few, in many partitions, and behind all others in the order: they are looked
  // for only when the others don't fill the list, and by their time, whose index gives no order.
  const near = `${put(idAt(startedFrom - ID_NEAR_MS))}::bigint`;
  const far = `${put(idAt(startedFrom - ID_BEHIND_MS))}::bigint`;
  const nearly = groups.map(
    (group, index) => `near${index} AS MATERIALIZED (${walk([...group, `saga_id >= ${near}`])})`,
  );
  const both = groups.flatMap((group, index) => {
    const isShort = `(SELECT count(*) FROM near${index}) < ${limit}`;
    const late = [...group, `saga_id < ${near}`, `saga_id >= ${far}`, isShort];
    return [`SELECT * FROM near${index}`, walk(late, '(saga_id + 0)')];
  });
  return { text: `WITH ${nearly.join(', ')} ${merged(both, limit)}`, values };
}

function merged(walks: readonly string[], limit: string): string {
  if (walks.length === 1) return walks.join('');
  const all = walks.map((walk) => `(${walk})`).join(' UNION ALL ');
  return `SELECT * FROM (${all}) AS walks ORDER BY saga_id DESC LIMIT ${limit}`;
}

function filters(query: SagaQuery, put: (value: unknown) => string): string[] {
  const conditions: string[] = [];
  if (query.definition !== undefined) conditions.push(`definition = ${put(query.definition)}`);
  if (query.definitionVersion !== undefined) {
    conditions.push(`definition_version = ${put(query.definitionVersion)}`);
  }
  if (query.businessKey !== undefined)
    conditions.push(`business_key = ${put(toText(query.businessKey))}`);
  if (query.attributes !== undefined && Object.keys(query.attributes).length > 0) {
    conditions.push(`attributes @> ${put(JSON.stringify(searchable(query.attributes)))}::jsonb`);
  }
  if (query.beforeSagaId !== undefined) {
    const id = toId(query.beforeSagaId);
    conditions.push(id === null ? 'false' : `saga_id < ${put(id)}::bigint`);
  }
  if (query.startedBefore !== undefined) {
    conditions.push(`started_at_ms < ${put(Math.ceil(query.startedBefore))}::bigint`);
    conditions.push(`saga_id < ${put(idAt(query.startedBefore + ID_AHEAD_MS))}::bigint`);
  }
  if (query.startedFrom !== undefined) {
    conditions.push(`started_at_ms >= ${put(Math.ceil(query.startedFrom))}::bigint`);
  }
  return conditions;
}

/** Ids end where 41 bits of ms do; a time outside is taken as the nearest end. */
function idAt(ms: number): string {
  return composeSnowflake(
    Math.min(Math.max(Math.floor(ms), SNOWFLAKE_EPOCH_MS), SNOWFLAKE_EPOCH_MS + 2 ** 41 - 1),
    0,
    0,
  );
}

function toSummary(row: SummaryRow): SagaSummary {
  return {
    sagaId: row.saga_id,
    namespace: row.namespace,
    definition: row.definition,
    definitionVersion: row.definition_version,
    status: row.status,
    state: row.state,
    businessKey: row.business_key,
    attributes: row.attributes,
    streamVersion: row.stream_version,
    startedAt: Number(row.started_at_ms),
    updatedAt: Number(row.updated_at_ms),
    endedAt: row.ended_at_ms === null ? null : Number(row.ended_at_ms),
    pivotPassed: row.pivot_passed,
    failureCode: row.failure_code,
    failureMessage: row.failure_message,
    output: fromJsonb(row.output),
  };
}

async function shards(db: Database): ReturnType<SagaReader['shards']> {
  const rows = await db.read<{
    shard: number;
    epoch: string;
    owner: string | null;
    expires_at_ms: string | null;
    next_offset: string;
    next_seq: string;
    published_seq: string;
  }>({
    name: 'sagax-shards',
    text: `SELECT s.shard, s.epoch, s.owner, (extract(epoch FROM s.expires_at) * 1000)::bigint AS expires_at_ms,
        p.next_offset, p.next_seq, p.published_seq
      FROM sagax.shards s JOIN sagax.shard_positions p USING (shard) ORDER BY s.shard`,
  });
  return rows.map((row) => ({
    shard: row.shard,
    epoch: Number(row.epoch),
    owner: row.owner,
    expiresAt: row.expires_at_ms === null ? null : Number(row.expires_at_ms),
    nextOffset: row.next_offset,
    nextSeq: Number(row.next_seq),
    publishedSeq: Number(row.published_seq),
  }));
}
