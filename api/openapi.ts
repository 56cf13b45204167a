/**
 * The OpenAPI 3.1 document, from the same zod schemas that the routes check with.
 *
 * Guards that every route is in it, with what it answers and what it may refuse; fastify tells of the
 * routes, so none can be left out.
 */
import type { FastifyInstance } from 'fastify';
import swagger from '@fastify/swagger';
import {
  createJsonSchemaTransform,
  createJsonSchemaTransformObject,
} from 'fastify-type-provider-zod';
import type { z } from 'zod';
import { docs } from './schemas.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the document shows as the body, where the route itself checks part by part. */
    documentedBody?: z.ZodType;
    /** The route takes `attribute.<name>` parameters. */
    attributeQuery?: boolean;
  }
}

const schemaTransform = createJsonSchemaTransform({ schemaRegistry: docs });
const objectTransform = createJsonSchemaTransformObject({ schemaRegistry: docs });

/** Must be registered before the routes. */
export function registerOpenApi(app: FastifyInstance, version: string): void {
  void app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Sagax',
        version,
        description:
          'Starts and inspects sagas. A 2xx to a request that changes something means durable. Refusals are ' +
          'problem details (RFC 9457) with a stable code.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      // Paths are relative to where the document is served from.
      servers: [{ url: '/' }],
      components: {
        securitySchemes: {
          bearer: {
            type: 'http',
            scheme: 'bearer',
            description:
              'An API key (`sgx_…`), or a JSON Web Token of the identity provider that the deployment trusts.',
          },
        },
      },
      tags: TAGS.map(([name, description]) => ({ name, description })),
    },
    transform: (document) => {
      const config = document.route.config;
      const schema = { ...document.schema };
      if (config?.documentedBody !== undefined) schema.body = config.documentedBody;
      const access = config?.access ?? 'admin';
      schema.security = access === 'public' ? [] : [{ bearer: [] }];
      if (access !== 'public') schema.description = withRole(schema.description, access);
      return schemaTransform({ ...document, schema });
    },
    transformObject: (document) => mend(objectTransform(document) as unknown as OpenApi) as never,
  });
}

function withRole(description: string | undefined, role: string): string {
  return `${description ?? ''}${description === undefined ? '' : '\n\n'}For the role ${role} and above.`;
}

const TAGS: readonly (readonly [string, string])[] = [
  ['sagas', 'Start sagas, look at them, wait for their end.'],
  ['history', 'The event log of a saga.'],
  ['inputs', 'What is put to a running saga.'],
  ['commands', 'Commands of a saga, by id.'],
  ['operator', 'Verbs and views for those who run it.'],
  ['definitions', 'What sagas are.'],
  ['keys', 'API keys, for admins.'],
  ['process', 'The API process itself.'],
];

interface Operation {
  operationId?: string;
  parameters?: { name: string; in: string; [member: string]: unknown }[];
  requestBody?: {
    required: boolean;
    content: { [type: string]: { schema?: { default?: unknown } } };
  };
  responses: { [status: string]: { content?: object; headers?: object } };
}
interface OpenApi {
  paths: { [path: string]: { [method: string]: Operation } };
}

/** What the generator can't know: optional bodies, answers without content, attribute parameters, headers. */
function mend(document: OpenApi): OpenApi {
  for (const operations of Object.values(document.paths)) {
    for (const operation of Object.values(operations)) mendOperation(operation);
  }
  return document;
}

function mendOperation(operation: Operation): void {
  const { requestBody, responses } = operation;
  if (requestBody !== undefined) {
    const optional = Object.values(requestBody.content).some(
      (media) => media.schema?.default !== undefined,
    );
    requestBody.required = !optional;
  }
  for (const [status, response] of Object.entries(responses)) {
    if (status === '204') delete response.content;
    if (status === '503' || status === '429') {
      response.headers = {
        'Retry-After': { description: 'Seconds to wait.', schema: { type: 'integer' } },
      };
    }
  }
  if (operation.operationId?.startsWith('listSagas') === true) {
    // As a form-exploded object, its members are parameters of their own: `?attribute.customer=42`.
    operation.parameters?.push({
      name: 'attributes',
      in: 'query',
      description: 'Search attributes, as `attribute.<name>=<value>`.',
      required: false,
      style: 'form',
      explode: true,
      schema: {
        type: 'object',
        patternProperties: { '^attribute\\.[A-Za-z][A-Za-z0-9_-]{0,63}$': { type: 'string' } },
        additionalProperties: false,
      },
    });
  }
}
