/**
 * Messages in and out: a command from the bus, or what can be saved of one that isn't; replies to the bus.
 *
 * Guards that a bad message stops nothing: it is worded as a dead letter, and whoever asked is answered
 * when the message says who that is.
 */
import { z } from 'zod';
import { SagaxError } from '../engine/core/errors.ts';
import {
  assertSafeJson,
  CE_TYPES,
  commandIdSchema,
  decodeCommand,
  encodeMessage,
  MAX_BODY_BYTES,
  namespaceSchema,
  sagaIdSchema,
  workerSource,
  type CommandBody,
  type ReplyBody,
} from '../engine/core/wire.ts';
import type { BusMessage, DeadLetter, ReceivedMessage } from '../engine/ports.ts';
import { cutText, textOf } from './failures.ts';

/** Where a reply goes, and what it carries over from its command. */
export interface ReplyRoute {
  topic: string;
  partition: number;
  traceparent: string | undefined;
}

export type Decoded =
  | { kind: 'command'; command: CommandBody; route: ReplyRoute }
  | { kind: 'poison'; code: string; reason: string; answer: Answerable | null };

/** A message that is no command, but says whom to tell. */
export interface Answerable {
  reply: ReplyBody;
  route: ReplyRoute;
}

const salvageSchema = z.object({
  commandId: commandIdSchema,
  sagaId: sagaIdSchema.optional(),
  namespace: namespaceSchema.catch('default'),
  attempt: z.int().positive().catch(1),
  replyTo: z.object({ topic: z.string().min(1), partition: z.int().nonnegative() }),
});

/** Never throws. */
export function decode(message: ReceivedMessage): Decoded {
  try {
    const command = decodeCommand(message);
    assertComplete(command);
    return { kind: 'command', command, route: routeOf(message, command.replyTo) };
  } catch (error) {
    const code = error instanceof SagaxError ? error.code : 'MESSAGE_INVALID';
    const reason = cutText(error instanceof Error ? error.message : textOf(error));
    return { kind: 'poison', code, reason, answer: salvage(message, code, reason) };
  }
}

/** What the schema can't say: a compensation or settlement is about another command, of the same saga. */
function assertComplete(command: CommandBody): void {
  const { commandId, sagaId, of, op } = command;
  if (!commandId.startsWith(`${sagaId}.`)) {
    throw new SagaxError('MESSAGE_INVALID', `commandId ${commandId} is not of saga ${sagaId}.`);
  }
  if (op === 'do') return;
  if (of === undefined || of === commandId || !of.startsWith(`${sagaId}.`)) {
    throw new SagaxError(
      'MESSAGE_INVALID',
      `A ${op} needs "of": the command id of the step that it is about, in the same saga.`,
    );
  }
}

function salvage(message: ReceivedMessage, code: string, reason: string): Answerable | null {
  // Only its own envelope says that it asks for something: a reply to a reply would be noise.
  if (message.headers['ce_type'] !== CE_TYPES.command) return null;
  if (message.value === null || message.value.length > MAX_BODY_BYTES * 2) return null;
  let parsed;
  try {
    parsed = salvageSchema.safeParse(JSON.parse(message.value));
  } catch {
    return null;
  }
  if (!parsed.success) return null;
  const { commandId, namespace, attempt, replyTo } = parsed.data;
  const sagaId = parsed.data.sagaId ?? commandId.slice(0, commandId.indexOf('.'));
  return {
    route: routeOf(message, replyTo),
    reply: {
      commandId,
      sagaId,
      namespace,
      attempt,
      outcome: 'failed',
      failure: { code, message: reason },
      retryable: false,
    },
  };
}

function routeOf(message: ReceivedMessage, to: { topic: string; partition: number }): ReplyRoute {
  return { ...to, traceparent: message.headers['ce_traceparent'] };
}

/** @throws SagaxError PAYLOAD_REFUSED */
export function encodeReply(
  service: string,
  reply: ReplyBody,
  route: ReplyRoute,
  at: number,
  heartbeat?: number,
): BusMessage {
  assertSafeJson(reply);
  const { commandId, sagaId, attempt, outcome } = reply;
  const nth = heartbeat === undefined ? '' : `#${heartbeat}`;
  const envelope = {
    type: CE_TYPES.reply,
    id: `${commandId}#${attempt}#${outcome}${nth}`,
    source: workerSource(service),
    at,
    sagaId,
    traceparent: route.traceparent,
  };
  return { topic: route.topic, partition: route.partition, ...encodeMessage(envelope, reply) };
}

/** Longest text of a dead letter's value, in bytes. */
const MAX_LETTER_BYTES = 65_536;

export function deadLetterOf(
  message: ReceivedMessage,
  code: string,
  reason: string,
  at: number,
): DeadLetter {
  const { topic, partition, offset, key, headers } = message;
  return { topic, partition, offset, key, headers, value: cut(message.value), code, reason, at };
}

function cut(value: string | null): string | null {
  if (value === null || value.length * 3 <= MAX_LETTER_BYTES) return value;
  const bytes = Buffer.from(value, 'utf8');
  if (bytes.length <= MAX_LETTER_BYTES) return value;
  // A character cut in two at the end is left out.
  return bytes
    .subarray(0, MAX_LETTER_BYTES)
    .toString('utf8')
    .replace(/\uFFFD+$/u, '');
}
