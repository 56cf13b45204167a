/** Looking at sagas: one, its result, and lists. Nothing here changes a saga. */
import { z } from 'zod';
import { answers, namespaceOf, type App, type Context, type Scope } from '../context.ts';
import { decodeCursor, encodeCursor } from '../cursor.ts';
import { Missing } from '../missing.ts';
import type { SagaQuery } from '../../engine/ports-read.ts';
import { ApiError } from '../problems.ts';
import { waiterOf } from '../request.ts';
import * as shape from '../schemas.ts';
import { basePath, resultView, sagaView } from '../views.ts';
import { hasEnded } from '../watch.ts';

export function sagaRoutes(app: App, context: Context, scope: Scope): void {
  app.get(
    '/sagas/:sagaId',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('getSaga'),
        tags: ['sagas'],
        summary: 'One saga',
        params: scope.params({ sagaId: shape.sagaId }),
        querystring: shape.noQuery,
        response: answers('read', { 200: shape.sagaAnswer }, ['SAGA_UNKNOWN', 'OVERLOADED']),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      return sagaView(await context.lookup.saga(namespace, request.params.sagaId, waiterOf(reply)));
    },
  );
  resultRoute(app, context, scope);
  listRoute(app, context, scope);
}

function resultRoute(app: App, context: Context, scope: Scope): void {
  app.get(
    '/sagas/:sagaId/result',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('getResult'),
        tags: ['sagas'],
        summary: 'What a saga ended with; waits for it (long poll)',
        description:
          '200 once it has ended, 202 with the status so far when the wait is over before.',
        params: scope.params({ sagaId: shape.sagaId }),
        querystring: z.strictObject({ wait: shape.waitQuery }),
        response: answers('read', { 200: shape.resultAnswer, 202: shape.resultAnswer }, [
          'SAGA_UNKNOWN',
          'OVERLOADED',
        ]),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const waiter = waiterOf(reply);
      const waitMs = request.query.wait * 1_000;
      const until = context.deps.clock.now() + waitMs;
      const { sagaId } = request.params;
      let summary = await context.lookup.saga(namespace, sagaId, waiter, waitMs);
      const restMs = until - context.deps.clock.now();
      if (!hasEnded(summary) && restMs > 0) {
        const options = { ms: restMs, waiter };
        summary =
          (await context.watch.wait(namespace, summary.sagaId, hasEnded, options)) ?? summary;
      }
      return reply.code(hasEnded(summary) ? 200 : 202).send(resultView(summary));
    },
  );
}

/** Text of a query that goes to the database, which keeps no NUL. */
const text = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .refine((value) => !value.includes('\0'), 'holds a NUL character');
const STATUS_LIST = z
  .union([z.string(), z.array(z.string())])
  .transform((given) => [given].flat().flatMap((part) => part.split(',')))
  .pipe(z.array(shape.sagaStatus).max(20));
const instant = z.iso
  .datetime({ offset: true })
  .transform((given) => Date.parse(given))
  .pipe(z.number('not a date that exists'));

const ATTRIBUTE = /^attribute\.([A-Za-z][A-Za-z0-9_-]{0,63})$/;
const known = {
  definition: text(128).optional(),
  version: shape.queryInt(1, 2_147_483_647).optional(),
  status: STATUS_LIST.optional().register(shape.docs, {
    description: 'One or more statuses, repeated or separated by commas.',
  }),
  businessKey: text(256).optional(),
  startedFrom: instant.optional().register(shape.docs, { description: 'ISO 8601, inclusive.' }),
  startedBefore: instant.optional().register(shape.docs, { description: 'ISO 8601, exclusive.' }),
  limit: shape.limitQuery,
  cursor: shape.cursorQuery.register(shape.docs, { description: '`next` of the page before.' }),
};
const listQuery = z
  .object(known)
  .catchall(text(1024))
  .superRefine((query, check) => {
    const names = Object.keys(query).filter((name) => !(name in known));
    for (const name of names.slice(0, 20)) {
      if (ATTRIBUTE.test(name)) continue;
      check.addIssue({
        code: 'custom',
        path: [name.slice(0, 128)],
        message: `unknown; the list takes ${Object.keys(known).join(', ')} and attribute.<name>`,
      });
    }
    if (names.length > 16) check.addIssue({ code: 'custom', message: 'at most 16 attributes' });
  });

function listRoute(app: App, context: Context, scope: Scope): void {
  app.get(
    '/sagas',
    {
      config: { access: 'reader', attributeQuery: true },
      schema: {
        operationId: scope.operation('listSagas'),
        tags: ['sagas'],
        summary: 'Sagas, newest first',
        description:
          'All filters must match. `attribute.<name>=<value>`: `true`, `false` and numbers are taken as such, ' +
          'anything else as text; quote a text that looks like one (`"42"`).',
        params: scope.params({}),
        querystring: listQuery,
        response: answers('read', { 200: shape.sagaListAnswer }, ['CURSOR_INVALID']),
      },
    },
    async (request) => {
      const namespace = namespaceOf(context, request);
      const { cursor, limit, ...given } = request.query;
      const filter = filterOf(namespace, given);
      const before = decodeCursor(cursor, filter);
      // One more than asked for tells whether there is a next page.
      const missing = new Missing();
      const found = await context.deps.reader.list(
        { ...filter, ...(before !== undefined && { beforeSagaId: before }), limit: limit + 1 },
        missing.options,
      );
      const page = found.slice(0, limit);
      const last = page.at(-1);
      const next =
        found.length > limit && last !== undefined ? encodeCursor(last.sagaId, filter) : null;
      const links = next === null ? {} : { next: nextLink(request.url, namespace, next) };
      return { items: page.map(sagaView), next, links, ...missing.view };
    },
  );
}

/** Without the catch-all, whose index signature would make every member a text. */
type Given = Omit<z.output<z.ZodObject<typeof known>>, 'cursor' | 'limit'>;

function filterOf(namespace: string, given: Given): Omit<SagaQuery, 'limit' | 'beforeSagaId'> {
  const attributes: { [name: string]: string | number | boolean } = {};
  for (const [name, value] of Object.entries(given)) {
    const attribute = ATTRIBUTE.exec(name)?.[1];
    if (attribute !== undefined) attributes[attribute] = attributeValue(String(value));
  }
  const { definition, version, status, businessKey, startedFrom, startedBefore } = given;
  if (startedFrom !== undefined && startedBefore !== undefined && startedFrom >= startedBefore) {
    throw new ApiError('INPUT_INVALID', 'startedFrom must be before startedBefore.', {
      status: 400,
    });
  }
  return {
    namespace,
    ...(definition !== undefined && { definition }),
    ...(version !== undefined && { definitionVersion: version }),
    ...(status !== undefined && { status }),
    ...(businessKey !== undefined && { businessKey }),
    ...(startedFrom !== undefined && { startedFrom }),
    ...(startedBefore !== undefined && { startedBefore }),
    ...(Object.keys(attributes).length > 0 && { attributes }),
  };
}

/** Attributes are typed; a query is text. */
export function attributeValue(given: string): string | number | boolean {
  if (given === 'true') return true;
  if (given === 'false') return false;
  if (/^-?(0|[1-9]\d{0,15})(\.\d{1,15})?$/.test(given)) return Number(given);
  const quoted = /^"(.*)"$/s.exec(given);
  return quoted?.[1] ?? given;
}

function nextLink(url: string, namespace: string, cursor: string): string {
  const query = new URLSearchParams(url.includes('?') ? url.slice(url.indexOf('?') + 1) : '');
  query.set('cursor', cursor);
  return `${basePath(namespace)}/sagas?${query.toString()}`;
}
