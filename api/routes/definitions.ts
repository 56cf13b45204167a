/** The saga definitions that this process knows: schemas, steps, machine, diagram. */
import { z } from 'zod';
import { answers, namespaceOfLinks, type App, type Context, type Scope } from '../context.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { FastifyReply } from 'fastify';
import * as shape from '../schemas.ts';

const name = z.string().min(1).max(128);
const format = z.strictObject({
  format: z.enum(['json', 'mermaid']).default('json').register(shape.docs, {
    description: '`mermaid` gives the machine as a stateDiagram-v2.',
  }),
});

export function definitionRoutes(app: App, context: Context, scope: Scope): void {
  const listed = z.object({ items: z.array(shape.definitionBrief) });
  app.get(
    '/definitions',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('listDefinitions'),
        tags: ['definitions'],
        summary: 'All definitions, the newest version of each',
        params: scope.params({}),
        querystring: shape.noQuery,
        response: answers('plain', { 200: listed }, ['NAMESPACE_UNKNOWN']),
      },
    },
    async (request) => {
      const namespace = namespaceOfLinks(context, request);
      const newest = context.catalog.names().map((known) => context.catalog.get(known));
      return { items: newest.map((definition) => context.catalog.brief(definition, namespace)) };
    },
  );
  oneRoute(app, context, scope);
  versionRoute(app, context, scope);
}

function oneRoute(app: App, context: Context, scope: Scope): void {
  app.get(
    '/definitions/:name',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('getDefinition'),
        tags: ['definitions'],
        summary: 'The newest version of a definition',
        params: scope.params({ name }),
        querystring: format,
        response: definitionAnswers(),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOfLinks(context, request);
      const definition = context.catalog.get(request.params.name);
      return show(context, reply, definition, namespace, request.query.format);
    },
  );
}

function versionRoute(app: App, context: Context, scope: Scope): void {
  const version = shape.queryInt(1, 2_147_483_647);
  app.get(
    '/definitions/:name/versions/:version',
    {
      config: { access: 'reader' },
      schema: {
        operationId: scope.operation('getDefinitionVersion'),
        tags: ['definitions'],
        summary: 'One version of a definition',
        params: scope.params({ name, version }),
        querystring: format,
        response: definitionAnswers(),
      },
    },
    async (request, reply) => {
      const namespace = namespaceOfLinks(context, request);
      const definition = context.catalog.get(request.params.name, request.params.version);
      return show(context, reply, definition, namespace, request.query.format);
    },
  );
}

function definitionAnswers() {
  const ok = {
    description: 'The definition, or its diagram.',
    content: {
      'application/json': { schema: shape.definitionAnswer },
      'text/vnd.mermaid': { schema: z.string() },
    },
  };
  return answers('plain', { 200: ok }, ['DEFINITION_UNKNOWN', 'NAMESPACE_UNKNOWN']);
}

function show(
  context: Context,
  reply: FastifyReply,
  definition: AnyDefinition,
  namespace: string,
  wanted: 'json' | 'mermaid',
) {
  if (wanted === 'mermaid') {
    return reply.type('text/vnd.mermaid; charset=utf-8').send(context.catalog.mermaid(definition));
  }
  return reply
    .type('application/json; charset=utf-8')
    .send(context.catalog.view(definition, namespace));
}
