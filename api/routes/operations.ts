/**
 * For operators: dead letters and their redrive, and who owns which shard.
 *
 * Guards that a dead letter is seen only by those who have the namespace that its message names; one that names none, or
 * can't be read, only by those who have all.
 */
import { z } from 'zod';
import { mayUse, type Principal } from '../access/principal.ts';
import { answers, type App, type Context } from '../context.ts';
import { decodeCursor, encodeCursor } from '../cursor.ts';
import type { StoredDeadLetter } from '../../engine/ports-read.ts';
import { DEAD_LETTER_TEXT_LIMIT } from '../../engine/core/letters.ts';
import type { BusMessage } from '../../engine/ports.ts';
import { Missing } from '../missing.ts';
import { ApiError } from '../problems.ts';
import * as shape from '../schemas.ts';
import { deadLetterView, isoOrNull } from '../views.ts';

const letterId = z
  .string()
  .regex(/^[1-9][0-9]{0,18}$/, 'the id of a dead letter')
  .refine(shape.fitsBigint, 'an id below 2^63');
const flag = z.enum(['true', 'false']).default('false');

export function operationRoutes(app: App, context: Context): void {
  listRoute(app, context);
  oneRoute(app, context);
  redriveRoute(app, context);
  shardsRoute(app, context);
}

function listRoute(app: App, context: Context): void {
  app.get(
    '/dead-letters',
    {
      config: { access: 'reader' },
      schema: {
        operationId: 'listDeadLetters',
        tags: ['operator'],
        summary: 'Messages that could not be applied, newest first',
        querystring: z.strictObject({
          includeRedriven: flag,
          limit: shape.limitQuery,
          cursor: shape.cursorQuery,
        }),
        response: answers('read', { 200: shape.deadLetterListAnswer }, ['CURSOR_INVALID']),
      },
    },
    async (request) => {
      const { limit, cursor, includeRedriven } = request.query;
      const filter = { deadLetters: includeRedriven };
      const missing = new Missing();
      const { page, lastId } = await visiblePage(context, request.principal, missing, {
        beforeId: decodeCursor(cursor, filter),
        limit,
        includeRedriven: includeRedriven === 'true',
      });
      const next = lastId === null ? null : encodeCursor(lastId, filter);
      const query = `includeRedriven=${includeRedriven}&limit=${limit}&cursor=${next ?? ''}`;
      const links = next === null ? {} : { next: `/v1/dead-letters?${query}` };
      return { items: page.map(deadLetterView), next, links, ...missing.view };
    },
  );
}

/** Letters looked through for one page; a page may be short, or empty, and the list go on. */
const MAX_LETTERS_SEARCHED = 2_000;
const LETTERS_A_READ = 200;

/** @returns what of the list the principal may see, and the letter to go on behind; null at the end */
async function visiblePage(
  context: Context,
  principal: Principal,
  missing: Missing,
  query: { beforeId: string | undefined; limit: number; includeRedriven: boolean },
): Promise<{ page: StoredDeadLetter[]; lastId: string | null }> {
  const { limit, includeRedriven } = query;
  const page: StoredDeadLetter[] = [];
  let { beforeId } = query;
  // Who sees all needs one read: one more than asked for tells whether there is a next page.
  const batch = principal.namespaces === null ? limit + 1 : LETTERS_A_READ;
  for (let searched = 0; searched < MAX_LETTERS_SEARCHED; searched += batch) {
    const found = await context.deps.deadLetters.list(
      { ...(beforeId !== undefined && { beforeId }), limit: batch, includeRedriven },
      missing.options,
    );
    for (const letter of found) {
      if (page.length === limit) return { page, lastId: page.at(-1)?.id ?? null };
      if (maySee(principal, letter)) page.push(letter);
    }
    beforeId = found.at(-1)?.id;
    if (found.length < batch) return { page, lastId: null };
  }
  return { page, lastId: beforeId ?? null };
}

function maySee(principal: Principal, letter: StoredDeadLetter): boolean {
  if (principal.namespaces === null) return true;
  const namespace = namespaceIn(letter.value);
  return namespace !== null && mayUse(principal, namespace);
}

/** The namespace that a message's body names. */
function namespaceIn(text: string | null): string | null {
  if (text === null) return null;
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body !== 'object' || body === null || !Object.hasOwn(body, 'namespace')) return null;
    const { namespace } = body as { namespace: unknown };
    return typeof namespace === 'string' ? namespace : null;
  } catch {
    return null;
  }
}

async function letterOf(
  context: Context,
  principal: Principal,
  id: string,
): Promise<StoredDeadLetter> {
  const letter = await context.deps.deadLetters.get(id);
  if (letter !== null && maySee(principal, letter)) return letter;
  throw new ApiError('DEAD_LETTER_UNKNOWN', `No dead letter ${id} is kept here.`);
}

function oneRoute(app: App, context: Context): void {
  app.get(
    '/dead-letters/:id',
    {
      config: { access: 'reader' },
      schema: {
        operationId: 'getDeadLetter',
        tags: ['operator'],
        summary: 'One dead letter',
        params: z.strictObject({ id: letterId }),
        querystring: shape.noQuery,
        response: answers('read', { 200: shape.deadLetterAnswer }, ['DEAD_LETTER_UNKNOWN']),
      },
    },
    async (request) =>
      deadLetterView(await letterOf(context, request.principal, request.params.id)),
  );
}

const redriveAnswer = z.object({ id: z.string(), status: z.enum(['redriven', 'alreadyRedriven']) });

function redriveRoute(app: App, context: Context): void {
  app.post(
    '/dead-letters/:id/redrive',
    {
      config: { access: 'operator', audited: true },
      schema: {
        operationId: 'redriveDeadLetter',
        tags: ['operator'],
        summary: 'Publish the original message again',
        description: 'Mend the cause first. A message that fails again is a new dead letter.',
        params: z.strictObject({ id: letterId }),
        querystring: shape.noQuery,
        body: z.strictObject({}).default({}),
        response: answers('write', { 200: redriveAnswer, 202: redriveAnswer }, [
          'DEAD_LETTER_UNKNOWN',
        ]),
      },
    },
    async (request, reply) => {
      const letter = await letterOf(context, request.principal, request.params.id);
      if (letter.redrivenAt !== null) {
        return reply.code(200).send({ id: letter.id, status: 'alreadyRedriven' as const });
      }
      // Published first, marked after: a crash between the two publishes it once more, and receivers drop that.
      await context.inbox.send([messageOf(letter)]);
      await context.deps.deadLetters.markRedriven(letter.id);
      return reply.code(202).send({ id: letter.id, status: 'redriven' as const });
    },
  );
}

function messageOf(letter: StoredDeadLetter): BusMessage {
  const { topic, partition, key, headers, value } = letter;
  if (value === null || key === null) {
    throw new ApiError(
      'PAYLOAD_REFUSED',
      `Dead letter ${letter.id} has no ${value === null ? 'body' : 'key'}; there is nothing that could be applied.`,
    );
  }
  if (value.length === DEAD_LETTER_TEXT_LIMIT) {
    throw new ApiError(
      'PAYLOAD_REFUSED',
      `Dead letter ${letter.id} was cut to ${DEAD_LETTER_TEXT_LIMIT} characters when it was parked. Send the original from its source.`,
      { status: 413 },
    );
  }
  return { topic, partition, key, headers, value };
}

function shardsRoute(app: App, context: Context): void {
  app.get(
    '/shards',
    {
      config: { access: 'reader', allNamespaces: true },
      schema: {
        operationId: 'listShards',
        tags: ['operator'],
        summary: 'Who owns which shard, and how far it is',
        querystring: shape.noQuery,
        response: answers('read', { 200: shape.shardsAnswer }),
      },
    },
    async () => {
      const missing = new Missing();
      const shards = await context.deps.reader.shards(missing.options);
      const items = shards.map(({ expiresAt, nextSeq, publishedSeq, ...rest }) => ({
        ...rest,
        leaseExpiresAt: isoOrNull(expiresAt),
        nextSeq: String(nextSeq),
        publishedSeq: String(publishedSeq),
      }));
      return { shards: context.deps.topology.shards, items, ...missing.view };
    },
  );
}
