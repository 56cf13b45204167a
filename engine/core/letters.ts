/**
 * Dead letters: what is kept of a message that could not be applied, and a participant's one on its way to the
 * engine: a message in the inbox, so that one list has all of them, whichever database keeps the participant's own.
 *
 * Guards that what could not be read there can be told here: the message travels as JSON in a text, in which
 * NUL and halves of surrogate pairs are escapes, so that the report itself is always readable.
 */
import { z } from 'zod';
import { SagaxError, type ErrorCode } from './errors.ts';
import { CE_TYPES, envelopeHeaders, parseBody, workerSource, type WireMessage } from './wire.ts';

/** A message that could not be applied; kept so that it can be listed and redriven. */
export interface DeadLetter {
  topic: string;
  partition: number;
  offset: bigint;
  key: string | null;
  headers: { [name: string]: string };
  /** As it came, as text (invalid UTF-8 replaced); cut as `keptText` does. */
  value: string | null;
  code: string;
  reason: string;
  /** ms since the epoch, by the clock of whoever parked it. */
  at: number;
}

/** Codes of messages that can't be read, whoever reads them again. All others are kept whole, to be redriven. */
const UNREADABLE_CODES: ReadonlySet<string> = new Set<ErrorCode>([
  'MESSAGE_INVALID',
  'PAYLOAD_REFUSED',
]);
/** Characters that are kept of a message which can't be read, or is too large to be told of; so long is only what was cut. */
export const DEAD_LETTER_TEXT_LIMIT = 65_536;

/** What is kept of a message's text when it is parked under `code`. */
export function keptText(value: string | null, code: string): string | null {
  return UNREADABLE_CODES.has(code) ? (value?.slice(0, DEAD_LETTER_TEXT_LIMIT) ?? null) : value;
}

const reportSchema = z.object({
  topic: z.string().min(1).max(249),
  partition: z.int().nonnegative(),
  offset: z.string().regex(/^[0-9]{1,19}$/),
  code: z.string().min(1).max(128),
  reason: z.string().max(4_096),
  at: z.number(),
  message: z.string(),
});
const messageSchema = z.object({
  key: z.string().nullable(),
  headers: z.record(z.string(), z.string()),
  value: z.string().nullable(),
});

/** Headers beyond this, in characters, are left out of a report; no sender of ours comes near. */
const MAX_HEADERS_LENGTH = 32_768;

/** The report of a letter, for any partition of the inbox: it belongs to no saga. */
export function encodeLetter(service: string, letter: DeadLetter): WireMessage {
  const { topic, partition, offset, key, value, code, reason, at } = letter;
  const { length } = JSON.stringify(letter.headers);
  const headers = length > MAX_HEADERS_LENGTH ? {} : letter.headers;
  const place = `${topic}/${partition}/${offset}`;
  return {
    key: place,
    headers: envelopeHeaders({
      type: CE_TYPES.deadLetter,
      id: place,
      source: workerSource(service),
      at,
    }),
    value: JSON.stringify({
      topic,
      partition,
      offset: String(offset),
      code,
      reason: reason.toWellFormed().replaceAll('\0', '\uFFFD').slice(0, 4_096),
      at,
      message: JSON.stringify({ key, headers, value }),
    }),
  };
}

export function isLetter(message: { headers: { [name: string]: string } }): boolean {
  return message.headers['ce_type'] === CE_TYPES.deadLetter;
}

/** @throws SagaxError MESSAGE_INVALID or PAYLOAD_REFUSED: the report itself is to be parked. */
export function decodeLetter(message: { value: string | null }): DeadLetter {
  const report = reportSchema.safeParse(parseBody(message.value));
  const inner = report.success ? messageSchema.safeParse(innerOf(report.data.message)) : null;
  if (!report.success || inner?.success !== true) {
    throw new SagaxError(
      'MESSAGE_INVALID',
      'The report of a dead letter is not as docs/WIRE.md says.',
    );
  }
  const { topic, partition, offset, code, reason, at } = report.data;
  return { topic, partition, offset: BigInt(offset), code, reason, at, ...inner.data };
}

function innerOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
