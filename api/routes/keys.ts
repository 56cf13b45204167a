/**
 * API keys, for admins: make one, see them, revoke one.
 *
 * Guards that a whole key is in the answer to its making and nowhere else, ever.
 */
import { z } from 'zod';
import { makeKey } from '../access/keys.ts';
import { answers, type App, type Context } from '../context.ts';
import { ROLES, type ApiKey } from '../../engine/ports-access.ts';
import { ApiError } from '../problems.ts';
import * as shape from '../schemas.ts';
import { isoOrNull } from '../views.ts';

const ADMIN = { access: 'admin', allNamespaces: true } as const;
const MAX_NAMESPACES = 1_000;

const keyFields = {
  id: z.string(),
  name: z.string(),
  role: z.enum(ROLES),
  namespaces: z.array(z.string()).nullable().register(shape.docs, { description: 'null: all.' }),
  createdBy: z.string(),
  createdAt: z.string(),
  expiresAt: z.string().nullable(),
  revokedAt: z.string().nullable(),
  usedAt: z.string().nullable().register(shape.docs, { description: 'To the minute, about.' }),
};
const keyAnswer = z.object(keyFields).register(shape.docs, { id: 'ApiKey' });
const keyListAnswer = z
  .object({ items: z.array(keyAnswer) })
  .register(shape.docs, { id: 'ApiKeyList' });
const madeAnswer = z
  .object({
    id: z.string(),
    key: z.string().register(shape.docs, { description: 'The whole key; shown this once.' }),
    role: z.enum(ROLES),
    namespaces: z.array(z.string()).nullable(),
    expiresAt: z.string().nullable(),
  })
  .register(shape.docs, { id: 'MadeApiKey' });

const keyRequest = z
  .strictObject({
    name: z.string().min(1).max(128).register(shape.docs, { description: 'What it is for.' }),
    role: z.enum(ROLES),
    namespaces: z
      .array(shape.namespace)
      .min(1)
      .max(MAX_NAMESPACES)
      .nullable()
      .register(shape.docs, { description: 'null: all, those of later too.' }),
    expiresAt: z.iso
      .datetime({ offset: true })
      .nullable()
      .register(shape.docs, { description: 'ISO 8601; null: never. Say it, whichever it is.' }),
  })
  .register(shape.docs, { id: 'ApiKeyRequest' });

export function keyRoutes(app: App, context: Context): void {
  createRoute(app, context);
  listRoute(app, context);
  revokeRoute(app, context);
}

function createRoute(app: App, context: Context): void {
  app.post(
    '/keys',
    {
      config: { ...ADMIN, audited: true },
      schema: {
        operationId: 'createKey',
        tags: ['keys'],
        summary: 'Make an API key',
        querystring: shape.noQuery,
        body: keyRequest,
        response: answers('write', { 201: madeAnswer }),
      },
    },
    async (request, reply) => {
      const { name, role, namespaces } = request.body;
      const expiresAt = request.body.expiresAt === null ? null : Date.parse(request.body.expiresAt);
      if (expiresAt !== null && !(expiresAt > context.deps.clock.now())) {
        throw new ApiError('INPUT_INVALID', 'body.expiresAt: must be in the future');
      }
      const { id, key, hash } = makeKey();
      const createdBy = request.principal.name;
      const { apiKeys } = context.deps.access;
      await apiKeys.create({ id, hash, name, role, namespaces, createdBy, expiresAt });
      void reply.header('cache-control', 'no-store').code(201);
      return { id, key, role, namespaces, expiresAt: isoOrNull(expiresAt) };
    },
  );
}

function listRoute(app: App, context: Context): void {
  app.get(
    '/keys',
    {
      config: ADMIN,
      schema: {
        operationId: 'listKeys',
        tags: ['keys'],
        summary: 'API keys, newest first; with revoked and expired ones',
        querystring: shape.noQuery,
        response: answers('read', { 200: keyListAnswer }),
      },
    },
    async () => ({ items: (await context.deps.access.apiKeys.list()).map(keyView) }),
  );
}

function revokeRoute(app: App, context: Context): void {
  app.post(
    '/keys/:id/revoke',
    {
      config: { ...ADMIN, audited: true },
      schema: {
        operationId: 'revokeKey',
        tags: ['keys'],
        summary: 'Revoke an API key; every process refuses it within 10 seconds',
        params: z.strictObject({ id: z.string().regex(/^[0-9a-f]{12}$/, 'the id of a key') }),
        querystring: shape.noQuery,
        body: z.strictObject({}).default({}),
        response: answers('write', { 200: keyAnswer }, ['KEY_UNKNOWN']),
      },
    },
    async (request) => {
      const { id } = request.params;
      const { apiKeys } = context.deps.access;
      await apiKeys.revoke(id);
      const key = await apiKeys.find(id);
      if (key === null) throw new ApiError('KEY_UNKNOWN', `There is no API key ${id}.`);
      return keyView(key);
    },
  );
}

function keyView(key: ApiKey) {
  const { id, name, role, namespaces, createdBy } = key;
  return {
    ...{ id, name, role, createdBy },
    namespaces: namespaces === null ? null : [...namespaces],
    createdAt: new Date(key.createdAt).toISOString(),
    expiresAt: isoOrNull(key.expiresAt),
    revokedAt: isoOrNull(key.revokedAt),
    usedAt: isoOrNull(key.usedAt),
  };
}
