/**
 * What every request goes through before a handler: its id, its body's text, its validation.
 *
 * Guards that nothing unchecked reaches a handler: bodies are safe JSON (no keys that change prototypes,
 * bounded depth, texts that a database can keep), and every part fits its schema or is refused by name.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest, FastifySchemaCompiler } from 'fastify';
import type { z } from 'zod';
import { assertSafeJson } from '../engine/core/wire.ts';
import { ApiError, invalid } from './problems.ts';
import type { Waiter } from './watch.ts';

/** The caller's `x-request-id` when it is one that a log can carry, else a new one. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[A-Za-z0-9._-]{1,128}$/.test(given) ? given : randomUUID();
}

/** W3C trace context, or undefined when there is none that is valid (then it is to be ignored). */
export function traceparentOf(request: FastifyRequest): string | undefined {
  const given = request.headers['traceparent'];
  if (typeof given !== 'string') return undefined;
  const match = /^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$/.exec(given);
  if (match === null || /^0+$/.test(match[1] ?? '') || /^0+$/.test(match[2] ?? ''))
    return undefined;
  return given;
}

/** Body text to JSON. An empty body is none: verbs may be sent without. */
export function parseJsonBody(text: string): unknown {
  if (text.trim() === '') return undefined;
  let value: unknown;
  try {
    // An own "__proto__" member is made here, not a prototype changed; the next line refuses it.
    value = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message.slice(0, 200) : 'unknown reason';
    throw new ApiError('INPUT_INVALID', `The body is not JSON: ${why}`, { status: 400 });
  }
  assertSafeJson(value);
  return value;
}

const PART_WORDS: { readonly [part: string]: string } = {
  body: 'body',
  querystring: 'query',
  params: 'path',
  headers: 'header',
};

/** Checks each part of a request against its zod schema. */
export const validatorCompiler: FastifySchemaCompiler<z.ZodType> = ({ schema, httpPart }) => {
  const part = PART_WORDS[httpPart ?? 'body'] ?? 'body';
  return (data: unknown) => {
    // No body and an empty one are the same; a schema says by its default whether that will do.
    const result = schema.safeParse(data === null && part === 'body' ? undefined : data);
    if (result.success) return { value: result.data };
    return { error: invalid(part, result.error, part === 'body' ? 422 : 400) };
  };
};

/** The client, as one that may wait for the answer. Not for public routes: nobody is known there. */
export function waiterOf(reply: FastifyReply): Waiter {
  return { caller: reply.request.principal.name, gone: clientGone(reply) };
}

/** Aborted when the client goes away before it was answered; from the beginning when it has gone already. */
function clientGone(reply: FastifyReply): AbortSignal {
  const { raw } = reply;
  if (raw.destroyed) return AbortSignal.abort();
  const gone = new AbortController();
  raw.once('close', () => {
    if (!raw.writableFinished) gone.abort();
  });
  return gone.signal;
}

/** Seconds of `Prefer: wait=N`, 0 when it isn't asked for; more than 60 counts as 60. */
export function preferredWaitS(prefer: string | undefined): number {
  const match = /(?:^|[,;]\s*)wait\s*=\s*"?(\d{1,6})"?\s*(?:$|[,;])/i.exec(prefer ?? '');
  return Math.min(Number(match?.[1] ?? 0), 60);
}
