/**
 * Values on their way into and out of columns.
 *
 * Guards that what comes back is what went in (I9): jsonb refuses U+0000 and halves of surrogate pairs,
 * and a machine or an error message can make them, so such values travel as JSON text in a jsonb string.
 */
import type { LoggedEvent, SagaEvent } from '../core/events.ts';
import type { Json } from '../core/json.ts';

/** The one key of the object that stands for a value which jsonb can't hold as it is. */
const ESCAPE_KEY = '$sagax.json';
/** JSON.stringify writes both as escapes. A match on an escaped backslash only costs a needless detour. */
const UNSAFE = /\\u0000|\\ud[89a-f]/;

/** JSON text for a jsonb column; never holds a line break. Undefined becomes null. */
export function toJsonb(value: unknown): string {
  const text = JSON.stringify(value) ?? 'null';
  const mistakable = text.startsWith(`{"${ESCAPE_KEY}"`);
  return mistakable || UNSAFE.test(text) ? JSON.stringify({ [ESCAPE_KEY]: text }) : text;
}

/** The value that `toJsonb` was given, from what pg parsed. */
export function fromJsonb(value: unknown): Json {
  if (typeof value === 'object' && value !== null && Object.keys(value).length === 1) {
    const text = (value as { [ESCAPE_KEY]?: unknown })[ESCAPE_KEY];
    if (typeof text === 'string') return JSON.parse(text) as Json;
  }
  return value as Json;
}

/** Text for a text column. What it can't hold becomes U+FFFD: such columns are for lists, not the truth. */
export function toText(text: string): string {
  return text.replaceAll('\0', '\uFFFD').toWellFormed();
}

/** The column of `toText`, or null. */
export function toTextOrNull(text: string | null): string | null {
  return text === null ? null : toText(text);
}

/** Many JSON texts as one parameter for `string_to_array($n, E'\n')`: no quoting of quotes on either side. */
export function jsonLines(values: readonly unknown[]): string {
  return values.map(toJsonb).join('\n');
}

/** Texts as the inside of an array parameter's text. */
export function textList(values: readonly string[]): string {
  return values.map((value) => `"${value.replace(/["\\]/g, '\\$&')}"`).join(',');
}

/** Numbers or ids as the text of an array parameter. */
export function numberArray(values: readonly (string | number | bigint)[]): string {
  return `{${values.join(',')}}`;
}

const MAX_BIGINT = 2n ** 63n - 1n;

/** An id from outside as a bigint parameter, or null when there can be no such row. */
export function toId(text: string): string | null {
  return /^[1-9][0-9]{0,18}$/.test(text) && BigInt(text) <= MAX_BIGINT ? text : null;
}

/** Columns of an event, in the order and under the names that `toLoggedEvent` reads. */
export const EVENT_COLUMNS =
  'saga_id, namespace, stream_version, shard, shard_seq, epoch, at_ms, event';

export interface EventRow {
  saga_id: string;
  namespace: string;
  stream_version: number;
  shard: number;
  shard_seq: string;
  epoch: string;
  at_ms: string;
  event: unknown;
}

export function toLoggedEvent(row: EventRow): LoggedEvent {
  return {
    sagaId: row.saga_id,
    namespace: row.namespace,
    streamVersion: row.stream_version,
    shard: row.shard,
    shardSeq: Number(row.shard_seq),
    epoch: Number(row.epoch),
    at: Number(row.at_ms),
    event: fromJsonb(row.event) as unknown as SagaEvent,
  };
}
