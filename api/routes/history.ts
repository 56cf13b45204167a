/** A saga's event stream: in pages, and followed live. */
import { z } from 'zod';
import { answers, namespaceOf, type App, type Context, type Scope } from '../context.ts';
import { waiterOf } from '../request.ts';
import { followHistory } from '../sse.ts';
import * as shape from '../schemas.ts';
import { historyView, sagaPath } from '../views.ts';

const MAX_VERSION = 2_147_483_647;
const after = shape
  .queryInt(0, MAX_VERSION)
  .default(0)
  .register(shape.docs, { description: 'Only events with a higher stream version.' });
const pageSize = shape.queryInt(1, 1_000).default(200).register(shape.docs, {
  description: '1 to 1,000. A page of large events has fewer; `next` tells whether there are more.',
});
const lastEventId = z
  .string()
  .regex(/^\d{1,10}$/, 'the id of an event of this stream')
  .optional()
  .register(shape.docs, {
    description: 'Sent by EventSource when it connects again; wins over `after`.',
  });

export function historyRoutes(app: App, context: Context, scope: Scope): void {
  app.get(
    '/sagas/:sagaId/history',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('getHistory'),
        tags: ['history'],
        summary: 'The events of a saga, in order',
        params: scope.params({ sagaId: shape.sagaId }),
        querystring: z.strictObject({ after, limit: pageSize }),
        response: answers('read', { 200: shape.historyAnswer }, ['SAGA_UNKNOWN', 'OVERLOADED']),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const { sagaId } = request.params;
      const { limit } = request.query;
      const summary = await context.lookup.saga(namespace, sagaId, waiterOf(reply));
      const found = await context.deps.reader.history(sagaId, request.query.after, limit + 1);
      const page = found.slice(0, limit);
      const last = page.at(-1)?.streamVersion ?? null;
      // Of large events the reader gives fewer than were asked for.
      const isMore = found.length > limit || (last !== null && last < summary.streamVersion);
      const next = isMore ? last : null;
      const self = `${sagaPath(namespace, sagaId)}/history`;
      const links = next === null ? {} : { next: `${self}?after=${next}&limit=${limit}` };
      return { sagaId, items: page.map(historyView), next, links };
    },
  );
  streamRoute(app, context, scope);
}

function streamRoute(app: App, context: Context, scope: Scope): void {
  app.get(
    '/sagas/:sagaId/history/stream',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('followHistory'),
        tags: ['history'],
        summary: 'The events of a saga, followed live (server-sent events)',
        description:
          'One event for each event of the log: `id` is its stream version, `event` its type, `data` as in the ' +
          'history. After the last one comes `event: end`; close then. 204 tells a client that connects again ' +
          'after the end that nothing will follow.',
        params: scope.params({ sagaId: shape.sagaId }),
        querystring: z.strictObject({ after }),
        headers: z.looseObject({ 'last-event-id': lastEventId }),
        response: answers(
          'read',
          {
            200: {
              description: 'The stream.',
              content: { 'text/event-stream': { schema: z.string() } },
            },
            204: z.undefined().register(shape.docs, {
              description: 'The saga has ended, and the client has all of it.',
            }),
          },
          ['SAGA_UNKNOWN', 'OVERLOADED'],
        ),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const waiter = waiterOf(reply);
      const summary = await context.lookup.saga(namespace, request.params.sagaId, waiter);
      const given = request.headers['last-event-id'];
      const from = given === undefined ? request.query.after : Number(given);
      // EventSource stops connecting again on 204, and on nothing else that is not an error.
      if (given !== undefined && summary.endedAt !== null && from >= summary.streamVersion) {
        return reply.code(204).send();
      }
      await followHistory({
        reply,
        waiter,
        reader: context.deps.reader,
        watch: context.watch,
        clock: context.deps.clock,
        heartbeatMs: context.options.heartbeatMs,
        mayGoOn: () => context.gate.stillAdmits(request),
        summary,
        after: from,
      });
      return reply;
    },
  );
}
