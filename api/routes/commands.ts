/**
 * Commands by id: an operator mends a stuck one, or whoever a participant handed it to completes it.
 *
 * Guards that an answer given by hand or from outside fits the contract, as a participant's own would: a
 * machine is never fed an output that its `onDone` does not expect.
 */
import type { z } from 'zod';
import type { AnyContract } from '../../engine/core/contracts.ts';
import type { Json } from '../../engine/core/json.ts';
import type { Failure } from '../../engine/core/events.ts';
import type { ReplyBody } from '../../engine/core/wire.ts';
import type { SagaSummary } from '../../engine/ports.ts';
import { answers, namespaceOf, type App, type Context, type Scope } from '../context.ts';
import { contractOf, givenOr422, parseOr422, payload, type FoundCommand } from '../lookup.ts';
import { ApiError } from '../problems.ts';
import { waiterOf } from '../request.ts';
import * as shape from '../schemas.ts';
import type { Waiter } from '../watch.ts';
import { accept, operate } from './inputs.ts';

/** Each is an act that a person answers for. */
const ACT = { access: 'operator', audited: true } as const;
const CODES = ['SAGA_UNKNOWN', 'SAGA_ENDED', 'COMMAND_UNKNOWN'] as const;

export function commandRoutes(app: App, context: Context, scope: Scope): void {
  retryRoute(app, context, scope);
  skipRoute(app, context, scope);
  resolveRoute(app, context, scope);
  completeRoute(app, context, scope);
}

/** The saga and the command that an id names. */
async function locate(
  context: Context,
  namespace: string,
  commandId: string,
  waiter: Waiter,
): Promise<{ summary: SagaSummary; found: FoundCommand }> {
  const sagaId = commandId.slice(0, commandId.indexOf('.'));
  const summary = await context.lookup.livingSaga(namespace, sagaId, waiter);
  return { summary, found: await context.lookup.command(sagaId, commandId) };
}

/** The command's contract, where this process has the definition. */
function contractIn(
  context: Context,
  summary: SagaSummary,
  found: FoundCommand,
): AnyContract | null {
  const known = context.catalog.versions(summary.definition).includes(summary.definitionVersion);
  if (!known) return null;
  return contractOf(context.catalog.get(summary.definition, summary.definitionVersion), found);
}

const commandParams = (scope: Scope) => scope.params({ commandId: shape.commandId });

function common(scope: Scope, name: string, summary: string) {
  return {
    operationId: scope.operation(name),
    tags: ['commands'],
    summary,
    params: commandParams(scope),
    querystring: shape.noQuery,
    headers: shape.idempotencyHeaders,
    response: answers('write', { 202: shape.acceptedAnswer }, CODES),
  };
}

function retryRoute(app: App, context: Context, scope: Scope): void {
  const summary = 'Give a stuck command fresh attempts';
  app.post(
    '/commands/:commandId/retry',
    { config: ACT, schema: { ...common(scope, 'retryCommand', summary), body: shape.verbRequest } },
    async (request, reply) => {
      const { commandId } = request.params;
      const namespace = namespaceOf(context, request);
      const { summary } = await locate(context, namespace, commandId, waiterOf(reply));
      const target = { namespace, sagaId: summary.sagaId };
      const action = { verb: 'retry', commandId } as const;
      return operate(context, { request, reply, target, action, ...request.body });
    },
  );
}

function skipRoute(app: App, context: Context, scope: Scope): void {
  const summary = 'Take a stuck command as not needed';
  app.post(
    '/commands/:commandId/skip',
    { config: ACT, schema: { ...common(scope, 'skipCommand', summary), body: shape.skipRequest } },
    async (request, reply) => {
      const { commandId } = request.params;
      const namespace = namespaceOf(context, request);
      const { summary } = await locate(context, namespace, commandId, waiterOf(reply));
      const target = { namespace, sagaId: summary.sagaId };
      const action = { verb: 'skip', commandId } as const;
      return operate(context, { request, reply, target, action, ...request.body });
    },
  );
}

function resolveRoute(app: App, context: Context, scope: Scope): void {
  const summary = 'Take a stuck command as done by hand, with its output';
  app.post(
    '/commands/:commandId/resolve',
    {
      config: ACT,
      schema: { ...common(scope, 'resolveCommand', summary), body: shape.resolveRequest },
    },
    async (request, reply) => {
      const { commandId } = request.params;
      const namespace = namespaceOf(context, request);
      const { summary, found } = await locate(context, namespace, commandId, waiterOf(reply));
      const contract = contractIn(context, summary, found);
      const { output, by, reason } = request.body;
      // Of a step and of its settlement it is what the machine and the compensation read; a compensation's is read by nobody.
      const needed = found.op !== 'compensate' || output !== undefined;
      const checked = needed ? await outputOf(contract, output) : undefined;
      const action = {
        verb: 'resolve',
        commandId,
        ...(checked !== undefined && { output: checked }),
      } as const;
      const target = { namespace, sagaId: summary.sagaId };
      return operate(context, { request, reply, target, action, by, reason });
    },
  );
}

function completeRoute(app: App, context: Context, scope: Scope): void {
  const summary = 'Answer a command that its participant left pending';
  app.post(
    '/commands/:commandId/complete',
    {
      config: ACT,
      schema: { ...common(scope, 'completeCommand', summary), body: shape.completeRequest },
    },
    async (request, reply) => {
      const { commandId } = request.params;
      const namespace = namespaceOf(context, request);
      const { summary, found } = await locate(context, namespace, commandId, waiterOf(reply));
      const contract = contractIn(context, summary, found);
      const body = await replyOf(request.body, found, contract, {
        commandId,
        sagaId: summary.sagaId,
        namespace,
        attempt: found.attempt,
      });
      const inputId = `${commandId}/${found.attempt}/${body.outcome}`;
      return accept(context, { request, reply, inputId, input: { type: 'reply', body } });
    },
  );
}

async function replyOf(
  given: shape.CompleteRequest,
  found: FoundCommand,
  contract: AnyContract | null,
  address: { commandId: string; sagaId: string; namespace: string; attempt: number },
): Promise<ReplyBody> {
  switch (given.outcome) {
    case 'succeeded':
      return { ...address, outcome: 'succeeded', output: await outputOf(contract, given.output) };
    case 'rejected': {
      if (found.op === 'compensate') {
        throw new ApiError(
          'INPUT_INVALID',
          'A compensation has no business "no": it is owed. Answer "failed", and it is tried again.',
        );
      }
      return {
        ...address,
        outcome: 'rejected',
        failure: await rejectionOf(contract, given.failure),
      };
    }
    case 'failed': {
      const { retryable } = given;
      return { ...address, outcome: 'failed', failure: plain(given.failure), retryable };
    }
  }
}

type GivenFailure = z.output<typeof shape.failure>;

function plain(given: GivenFailure): Failure {
  const { code, message, data } = given;
  return { code, message, ...(data !== undefined && { data: payload(data, 'body.failure.data') }) };
}

/** As it was given: the engine parses it, a person's as a participant's. */
async function outputOf(contract: AnyContract | null, output: unknown): Promise<Json> {
  return contract === null
    ? payload(output, 'body.output')
    : givenOr422(contract.output as z.ZodType, output, 'body.output');
}

async function rejectionOf(contract: AnyContract | null, given: GivenFailure): Promise<Failure> {
  if (contract === null) return plain(given);
  const rejections = contract.rejections as { readonly [code: string]: z.ZodType };
  const schema = Object.hasOwn(rejections, given.code) ? rejections[given.code] : undefined;
  if (schema === undefined) {
    throw new ApiError(
      'INPUT_INVALID',
      `"${contract.name}" has no rejection "${given.code}". Known: ${Object.keys(rejections).join(', ') || 'none'}. Answer "failed" for anything else.`,
      { issues: [{ path: 'body.failure.code', message: 'not a rejection of the contract' }] },
    );
  }
  await parseOr422(schema, given.data, 'body.failure.data');
  return plain(given);
}
