/** Starting sagas: one, or many in one publish. Guards that a 2xx means durable (I4). */
import type { FastifyReply } from 'fastify';
import type { SagaxError } from '../../engine/core/errors.ts';
import { answers, namespaceOf, type App, type Context, type Scope } from '../context.ts';
import { asApiError, invalid, problemOf } from '../problems.ts';
import { waiterOf, preferredWaitS, traceparentOf } from '../request.ts';
import * as shape from '../schemas.ts';
import { startedView, type BatchOutcome, type PlannedStart, type StartOrder } from '../start.ts';
import { sagaPath } from '../views.ts';
import { hasEnded } from '../watch.ts';

const START_CODES = ['DEFINITION_UNKNOWN', 'KEY_REUSED'] as const;
/** A thousand items of an ordinary size; one item is still held to the message limit of the bus. */
const BATCH_BODY_BYTES = 8 * 1024 * 1024;

export function startRoutes(app: App, context: Context, scope: Scope): void {
  app.post(
    '/sagas',
    {
      config: { access: 'operator' },
      schema: {
        operationId: scope.operation('startSaga'),
        tags: ['sagas'],
        summary: 'Start a saga',
        description:
          'Answers 202 once the start is durable; 200 with `Idempotent-Replay: true` for a repeat under the ' +
          'same key. With `Prefer: wait=N` the answer waits for the end.',
        params: scope.params({}),
        querystring: shape.noQuery,
        headers: shape.startHeaders,
        body: shape.startRequest,
        response: answers('write', { 200: shape.startAnswer, 202: shape.startAnswer }, START_CODES),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const planned = await context.starts.start({
        namespace,
        request: request.body,
        idempotencyKey: request.headers['idempotency-key'],
        traceparent: traceparentOf(request),
        inputPart: 'body.input',
      });
      if (planned.replayed) void reply.header('idempotent-replay', 'true');
      void reply.header('location', sagaPath(namespace, planned.sagaId));
      const waited = await waitedAnswer(context, reply, planned, request.headers.prefer);
      const ended = waited !== null;
      return reply.code(planned.replayed || ended ? 200 : 202).send(waited ?? planned.answer);
    },
  );
  batchRoute(app, context, scope);
}

/** The answer of a saga that ended within the caller's patience; null when it did not, or none was asked for. */
async function waitedAnswer(
  context: Context,
  reply: FastifyReply,
  planned: PlannedStart,
  prefer: string | undefined,
): Promise<shape.StartAnswer | null> {
  const waitS = preferredWaitS(prefer);
  if (waitS === 0) return null;
  void reply.header('preference-applied', `wait=${waitS}`);
  const options = { ms: waitS * 1_000, waiter: waiterOf(reply) };
  const { namespace } = planned.answer;
  // The start is accepted whatever comes: too many waiters, or a database away, must not look like a refusal.
  const summary = await context.watch
    .wait(namespace, planned.sagaId, hasEnded, options)
    .catch(() => null);
  return summary !== null && hasEnded(summary) ? startedView(summary) : null;
}

function batchRoute(app: App, context: Context, scope: Scope): void {
  app.post(
    '/sagas/batch',
    {
      bodyLimit: BATCH_BODY_BYTES,
      config: { access: 'operator', documentedBody: shape.batchRequestDocumented },
      schema: {
        operationId: scope.operation('startSagas'),
        tags: ['sagas'],
        summary: 'Start up to 1,000 sagas in one publish',
        description:
          'A refused item refuses only itself. `Idempotency-Key` on the request gives each item that has none a ' +
          'key of its own (`<key>/<index>`), so that the whole batch can be repeated.',
        params: scope.params({}),
        querystring: shape.noQuery,
        headers: shape.idempotencyHeaders,
        body: shape.batchRequest,
        response: answers('write', { 200: shape.batchAnswer }, START_CODES),
      },
    },
    async (request) => {
      const namespace = namespaceOf(context, request);
      const batchKey = request.headers['idempotency-key'];
      const traceparent = traceparentOf(request);
      const orders = request.body.items.map((item, index): StartOrder | SagaxError => {
        const parsed = shape.batchItem.safeParse(item);
        const part = `body.items.${index}`;
        if (!parsed.success) return invalid(part, parsed.error);
        const { idempotencyKey, ...start } = parsed.data;
        const derived = batchKey === undefined ? undefined : `${batchKey}/${index}`;
        return {
          namespace,
          request: start,
          idempotencyKey: idempotencyKey ?? derived,
          traceparent,
          inputPart: `${part}.input`,
        };
      });
      const outcomes = await context.starts.startBatch(orders);
      return batchView(outcomes, (error) =>
        request.log.error({ err: error }, 'A batch item failed.'),
      );
    },
  );
}

function batchView(
  outcomes: readonly BatchOutcome[],
  logUnexpected: (error: unknown) => void,
): shape.BatchAnswer {
  const items = outcomes.map((outcome, index): shape.BatchAnswer['items'][number] => {
    if (!('refused' in outcome)) return { ...outcome.answer, index, replayed: outcome.replayed };
    const { error, unexpected } = asApiError(outcome.refused);
    if (unexpected) logUnexpected(outcome.refused);
    return {
      index,
      status: 'refused',
      problem: { ...problemOf(error), issues: [...(error.issues ?? [])] },
    };
  });
  const refused = items.filter((item) => item.status === 'refused').length;
  return { accepted: items.length - refused, refused, items };
}
