/**
 * What is put to a running saga: signals, cancel, and the operator verbs that name no command.
 *
 * Guards that what can be seen to be refused is refused here, with its reason; what can't be seen yet is decided
 * by the shard, which alone knows the order of inputs.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { OperatorAction } from '../../engine/core/events.ts';
import type { InboxInput } from '../../engine/core/wire.ts';
import { actorOf } from '../access/principal.ts';
import { answers, namespaceOf, type App, type Context, type Scope } from '../context.ts';
import { givenOr422 } from '../lookup.ts';
import { ApiError } from '../problems.ts';
import { waiterOf, traceparentOf } from '../request.ts';
import * as shape from '../schemas.ts';
import { sagaLinks } from '../views.ts';

const CODES = ['SAGA_UNKNOWN', 'SAGA_ENDED'] as const;

export function inputRoutes(app: App, context: Context, scope: Scope): void {
  signalRoute(app, context, scope);
  cancelRoute(app, context, scope);
  for (const verb of ['pause', 'resume', 'retry'] as const) verbRoute(app, context, scope, verb);
}

function signalRoute(app: App, context: Context, scope: Scope): void {
  app.post(
    '/sagas/:sagaId/signals/:name',
    {
      config: { access: 'operator', audited: true },
      schema: {
        operationId: scope.operation('signalSaga'),
        tags: ['inputs'],
        summary: 'Send a signal',
        description:
          'The body is the payload, as the definition declares it. `Idempotency-Key` becomes the signal id: a second signal of the saga with it, of whatever name or payload, is taken for a repeat.',
        params: scope.params({ sagaId: shape.sagaId, name: z.string().min(1).max(128) }),
        querystring: shape.noQuery,
        headers: shape.idempotencyHeaders,
        body: shape.signalRequest,
        response: answers('write', { 202: shape.acceptedAnswer }, [
          ...CODES,
          'SIGNAL_UNKNOWN',
          'DEFINITION_UNKNOWN',
        ]),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const { sagaId, name } = request.params;
      const summary = await context.lookup.livingSaga(namespace, sagaId, waiterOf(reply));
      const definition = context.catalog.get(summary.definition, summary.definitionVersion);
      const signals = definition.signals as { readonly [name: string]: z.ZodType };
      const schema = Object.hasOwn(signals, name) ? signals[name] : undefined;
      if (schema === undefined) {
        throw new ApiError(
          'SIGNAL_UNKNOWN',
          `"${definition.name}" version ${definition.version} declares no signal "${name}". Known: ${Object.keys(signals).join(', ') || 'none'}.`,
        );
      }
      const payload = await givenOr422(schema, request.body, 'body');
      const signalId = request.headers['idempotency-key'] ?? context.deps.ids.next();
      const body = { sagaId, namespace, signalId, name, payload };
      return accept(context, {
        request,
        reply,
        inputId: signalId,
        input: { type: 'signal', body },
      });
    },
  );
}

function cancelRoute(app: App, context: Context, scope: Scope): void {
  app.post(
    '/sagas/:sagaId/cancel',
    {
      config: { access: 'operator', audited: true },
      schema: {
        operationId: scope.operation('cancelSaga'),
        tags: ['inputs'],
        summary: 'Cancel a saga: what was done is compensated',
        description:
          'Refused past the pivot (I7). A pivot in flight decides: accepted here, it may be refused in the log.',
        params: scope.params({ sagaId: shape.sagaId }),
        querystring: shape.noQuery,
        headers: shape.idempotencyHeaders,
        body: shape.verbRequest,
        response: answers('write', { 202: shape.acceptedAnswer }, [...CODES, 'PIVOT_PASSED']),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const { sagaId } = request.params;
      const summary = await context.lookup.livingSaga(namespace, sagaId, waiterOf(reply));
      if (summary.pivotPassed) {
        throw new ApiError(
          'PIVOT_PASSED',
          `Saga ${sagaId} is past its pivot (in "${summary.state}"); it can only go forward. Undo its result by a saga of its own.`,
        );
      }
      const requestId = request.headers['idempotency-key'] ?? context.deps.ids.next();
      const by = actorOf(request.principal, request.body.by);
      const body = { sagaId, namespace, requestId, reason: request.body.reason, by };
      return accept(context, {
        request,
        reply,
        inputId: requestId,
        input: { type: 'cancel', body },
      });
    },
  );
}

const VERB_WORDS = {
  pause: 'Pause a saga: inputs are kept, none is applied',
  resume: 'Resume a paused saga',
  retry: 'Apply the input again that the machine faulted on',
} as const;

function verbRoute(
  app: App,
  context: Context,
  scope: Scope,
  verb: 'pause' | 'resume' | 'retry',
): void {
  app.post(
    `/sagas/:sagaId/${verb}`,
    {
      config: { access: 'operator', audited: true },
      schema: {
        operationId: scope.operation(`${verb}Saga`),
        tags: ['operator'],
        summary: VERB_WORDS[verb],
        params: scope.params({ sagaId: shape.sagaId }),
        querystring: shape.noQuery,
        headers: shape.idempotencyHeaders,
        body: shape.verbRequest,
        response: answers('write', { 202: shape.acceptedAnswer }, CODES),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOf(context, request);
      const { sagaId } = request.params;
      await context.lookup.livingSaga(namespace, sagaId, waiterOf(reply));
      const target = { namespace, sagaId };
      return operate(context, { request, reply, target, action: { verb }, ...request.body });
    },
  );
}

interface Exchange {
  request: FastifyRequest;
  reply: FastifyReply;
}

/** Sends an operator's verb. @returns the 202 */
export async function operate(
  context: Context,
  order: Exchange & {
    target: { namespace: string; sagaId: string };
    action: OperatorAction;
    by: string;
    reason: string;
  },
): Promise<shape.AcceptedAnswer> {
  const requestId = requestIdFor(context, order.request, order.action);
  const { action, reason } = order;
  const by = actorOf(order.request.principal, order.by);
  const body = { ...order.target, requestId, by, reason, action };
  return accept(context, { ...order, inputId: requestId, input: { type: 'operator', body } });
}

/** A key is one verb's (and command's): the same one with another verb asks for something else, and is no repeat. */
function requestIdFor(context: Context, request: FastifyRequest, action: OperatorAction): string {
  const given = request.headers['idempotency-key'];
  if (typeof given !== 'string') return context.deps.ids.next();
  const what = 'commandId' in action ? `${action.verb}:${action.commandId}` : action.verb;
  return `${what}:${given}`;
}

/** Puts an input into the saga's inbox; on return it is durable (I4). */
export async function accept(
  context: Context,
  order: Exchange & { inputId: string; input: InboxInput },
): Promise<shape.AcceptedAnswer> {
  const { input, inputId, request, reply } = order;
  const { sagaId, namespace } = input.body;
  const id = `${input.type}:${sagaId}:${inputId}`;
  await context.inbox.send([context.inbox.message(id, input, traceparentOf(request))]);
  void reply.code(202);
  return { sagaId, status: 'accepted', inputId, links: sagaLinks(namespace, sagaId) };
}
