/**
 * A participant's dead letter on its way to the engine: a message in the inbox, so that one list has all of
 * them, whichever database the participant keeps its own in.
 *
 * Guards that what could not be read there can be told here: the message travels as JSON in a text, in which
 * NUL and halves of surrogate pairs are escapes, so that the report itself is always readable.
 */
import { z } from 'zod';
import { SagaxError } from './errors.ts';
import { CE_TYPES, parseBody, workerSource, type WireMessage } from './wire.ts';

/** A message that a participant could not take, and why. */
export interface ReportedLetter {
  topic: string;
  partition: number;
  offset: bigint;
  key: string | null;
  headers: { [name: string]: string };
  value: string | null;
  code: string;
  reason: string;
  /** ms since the epoch, by the participant's clock. */
  at: number;
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
export function encodeLetter(service: string, letter: ReportedLetter): WireMessage {
  const { topic, partition, offset, key, value, code, reason, at } = letter;
  const { length } = JSON.stringify(letter.headers);
  const headers = length > MAX_HEADERS_LENGTH ? {} : letter.headers;
  const place = `${topic}/${partition}/${offset}`;
  return {
    key: place,
    headers: {
      'content-type': 'application/json',
      ce_specversion: '1.0',
      ce_type: CE_TYPES.deadLetter,
      ce_id: place,
      ce_source: workerSource(service),
      ce_time: new Date(at).toISOString(),
    },
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
export function decodeLetter(message: { value: string | null }): ReportedLetter {
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
