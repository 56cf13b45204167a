/** For operators: dead letters and their redrive, and who owns which shard. Not by namespace. */
import { z } from 'zod';
import { answers, type App, type Context } from '../context.ts';
import { decodeCursor, encodeCursor } from '../cursor.ts';
import type { StoredDeadLetter } from '../../engine/ports-read.ts';
import { DEAD_LETTER_TEXT_LIMIT, UNREADABLE_CODES, type BusMessage } from '../../engine/ports.ts';
import { ApiError } from '../problems.ts';
import * as shape from '../schemas.ts';
import { deadLetterView, isoOrNull } from '../views.ts';

/** Where a dead letter's text was cut when it was parked. */

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
      const before = decodeCursor(cursor, filter);
      const found = await context.deps.deadLetters.list({
        ...(before !== undefined && { beforeId: before }),
        limit: limit + 1,
        includeRedriven: includeRedriven === 'true',
      });
      const page = found.slice(0, limit);
      const last = page.at(-1);
      const next =
        found.length > limit && last !== undefined ? encodeCursor(last.id, filter) : null;
      const query = `includeRedriven=${includeRedriven}&limit=${limit}&cursor=${next ?? ''}`;
      const links = next === null ? {} : { next: `/v1/dead-letters?${query}` };
      return { items: page.map(deadLetterView), next, links };
    },
  );
}

async function letterOf(context: Context, id: string): Promise<StoredDeadLetter> {
  const letter = await context.deps.deadLetters.get(id);
  if (letter !== null) return letter;
  throw new ApiError('DEAD_LETTER_UNKNOWN', `No dead letter ${id} is kept here.`);
}

function oneRoute(app: App, context: Context): void {
  app.get(
    '/dead-letters/:id',
    {
      schema: {
        operationId: 'getDeadLetter',
        tags: ['operator'],
        summary: 'One dead letter',
        params: z.strictObject({ id: letterId }),
        querystring: shape.noQuery,
        response: answers('read', { 200: shape.deadLetterAnswer }, ['DEAD_LETTER_UNKNOWN']),
      },
    },
    async (request) => deadLetterView(await letterOf(context, request.params.id)),
  );
}

const redriveAnswer = z.object({ id: z.string(), status: z.enum(['redriven', 'alreadyRedriven']) });

function redriveRoute(app: App, context: Context): void {
  app.post(
    '/dead-letters/:id/redrive',
    {
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
      const letter = await letterOf(context, request.params.id);
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
  if (UNREADABLE_CODES.has(letter.code) && value.length >= DEAD_LETTER_TEXT_LIMIT) {
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
      schema: {
        operationId: 'listShards',
        tags: ['operator'],
        summary: 'Who owns which shard, and how far it is',
        querystring: shape.noQuery,
        response: answers('read', { 200: shape.shardsAnswer }),
      },
    },
    async () => {
      const shards = await context.deps.reader.shards();
      const items = shards.map(({ expiresAt, nextSeq, publishedSeq, ...rest }) => ({
        ...rest,
        leaseExpiresAt: isoOrNull(expiresAt),
        nextSeq: String(nextSeq),
        publishedSeq: String(publishedSeq),
      }));
      return { shards: context.deps.topology.shards, items };
    },
  );
}
