/**
 * What a run leaves behind, as plain JSON: the log, the topics, the participants' books, what was acknowledged.
 *
 * Guards that the checker can be run on a record as well as on a database, and that nothing in here is
 * a type of the engine's: an event is a name and some fields, read as docs/WIRE.md and the schema say.
 */

export const INVARIANTS = [
  'I1',
  'I2',
  'I3',
  'I4',
  'I5',
  'I6',
  'I7',
  'I8',
  'I9',
  'I10',
  'I11',
  'I12',
  'I13',
] as const;
export type Invariant = (typeof INVARIANTS)[number];

export interface Violation {
  invariant: Invariant;
  sagaId: string | null;
  /** What was found, in words. */
  what: string;
}

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** An event's own fields. Those that are read are checked where they are read. */
export type EventBody = { type: string; [field: string]: unknown };

/** Ids are decimal strings, times ms since 1970. */
export interface EventRow {
  sagaId: string;
  streamVersion: number;
  shard: number;
  shardSeq: number;
  epoch: number;
  /** As the writer said. */
  atMs: number;
  /** As the database saw it. */
  witnessedAtMs: number;
  type: string;
  event: EventBody;
}

export interface SagaRow {
  sagaId: string;
  definition: string;
  status: string;
  state: string;
  streamVersion: number;
  endedAtMs: number | null;
  failureCode: string | null;
  businessKey: string | null;
}

export interface ShardRow {
  shard: number;
  epoch: number;
  nextOffset: number;
  nextSeq: number;
  publishedSeq: number;
}

export interface EpochRow {
  shard: number;
  epoch: number;
  /** First shard_seq that this epoch may write. */
  fromSeq: number;
}

/** One application of a command by a participant. `n` orders them. */
export interface EffectRow {
  n: number;
  service: string;
  commandId: string;
}

/** A row of a participant's inbox. */
export interface CommandRow {
  service: string;
  commandId: string;
  op: string;
  state: string;
}

export interface MessageRow {
  topic: string;
  partition: number;
  offset: number;
  key: string | null;
  headers: { [name: string]: string };
  value: string | null;
}

export interface DeadLetterRow {
  topic: string;
  partition: number;
  offset: number;
  code: string;
  reason: string;
}

/** An input that was answered with a 2xx. */
export interface AcceptedInput {
  kind: 'start' | 'signal' | 'cancel';
  sagaId: string;
  /** The saga for a start; else the id that the answer gave the message, null when it gave none. */
  id: string | null;
  /** Key that made the request repeatable. */
  key: string;
  /** Of the API process that answered: addresses of two at the same port differ by a number. */
  process: string;
  /** By the client's monotonic clock, ms. */
  sentAtMs: number;
  answeredAtMs: number;
  /** Nothing was sent under this key before. */
  isFirstTry: boolean;
}

/** A book of a participant: what it must add up to, at the beginning and at the end. */
export interface BookRow {
  service: string;
  item: string;
  opening: string | null;
  closing: string | null;
}

export interface Evidence {
  topicPrefix: string;
  commandPartitions: number;
  events: EventRow[];
  sagas: SagaRow[];
  shards: ShardRow[];
  epochs: EpochRow[];
  /** Positions of shards that went back, in words. */
  regressions: { shard: number; what: string }[];
  wakeups: { sagaId: string; dueAtMs: number }[];
  deadLetters: DeadLetterRow[];
  /** Highest time that an id of this Snowflake node may carry. */
  nodeIds: { nodeId: number; lastMs: number }[];
  startKeys: { key: string; sagaId: string }[];
  effects: EffectRow[];
  commandRows: CommandRow[];
  books: BookRow[];
  /** All messages of all topics, in order of topic, partition and offset. */
  messages: MessageRow[];
  accepted: AcceptedInput[];
}

/** What a campaign did itself and the checker must know. */
export interface CheckOptions {
  /** Dead letters that are right, since the campaign sent what can't be applied. Default: none is. */
  allowDeadLetter?: (letter: DeadLetterRow) => boolean;
}

/**
 * Header of messages that a campaign put into a topic itself. The engine has no event for them (I10), and
 * they may be garbage; but what they cause is checked as all else.
 */
export const INJECTED_HEADER = 'chaos_injected';

export function isInjected(message: MessageRow): boolean {
  return message.headers[INJECTED_HEADER] !== undefined;
}

/** The events stream by stream, in order. */
export function streamsOf(evidence: Evidence): Map<string, EventRow[]> {
  const streams = new Map<string, EventRow[]>();
  for (const row of evidence.events) {
    const stream = streams.get(row.sagaId);
    if (stream === undefined) streams.set(row.sagaId, [row]);
    else stream.push(row);
  }
  for (const stream of streams.values()) stream.sort((a, b) => a.streamVersion - b.streamVersion);
  return streams;
}

export function isTerminal(type: string): boolean {
  return type === 'SagaCompleted' || type === 'SagaCompensated';
}

/** The step that a compensation (`….c`) or settlement (`….s`) is about. */
export function stepOf(commandId: string): string {
  return commandId.replace(/\.[cs]$/, '');
}

/** A field that must be a text. @throws Error when it isn't: the log is not what the schema says */
export function textIn(event: EventBody, field: string): string {
  const value = event[field];
  if (typeof value !== 'string') throw new Error(`${event.type} has no text in "${field}".`);
  return value;
}

export function numberIn(event: EventBody, field: string): number {
  const value = event[field];
  if (typeof value !== 'number') throw new Error(`${event.type} has no number in "${field}".`);
  return value;
}

/** JSON with its keys in order: equal for equal values. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const fields = Object.entries(value)
    .filter(([, field]) => field !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, field]) => `${JSON.stringify(key)}:${canonical(field)}`);
  return `{${fields.join(',')}}`;
}

/** Kafka's default partition of a key, by the published algorithm (murmur2 of its UTF-8 bytes). */
export function partitionOf(key: string, count: number): number {
  const bytes = Buffer.from(key, 'utf8');
  const m = 0x5bd1e995;
  let h = 0x9747b28c ^ bytes.length;
  let at = 0;
  for (; at + 4 <= bytes.length; at += 4) {
    let k = Math.imul(bytes.readInt32LE(at), m);
    k = Math.imul(k ^ (k >>> 24), m);
    h = Math.imul(h, m) ^ k;
  }
  const rest = bytes.subarray(at);
  for (let n = rest.length - 1; n >= 0; n--) h ^= (rest[n] ?? 0) << (8 * n);
  if (rest.length > 0) h = Math.imul(h, m);
  h = Math.imul(h ^ (h >>> 13), m);
  return ((h ^ (h >>> 15)) & 0x7fffffff) % count;
}
