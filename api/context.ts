/** What the routes share: the services of one API process, and helpers that keep routes alike. */
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Gate } from './access/gate.ts';
import { mayUse, type Principal } from './access/principal.ts';
import type { ErrorCode } from '../engine/core/errors.ts';
import type { Catalog } from './catalog.ts';
import type { ApiDeps, ResolvedOptions } from './deps.ts';
import type { Inbox } from './inbox.ts';
import type { Lookup } from './lookup.ts';
import { ApiError, sagaUnknown, statusesOf } from './problems.ts';
import { namespace, problem } from './schemas.ts';
import type { Starts } from './start.ts';
import type { SagaWatch } from './watch.ts';

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>;

export interface Context {
  deps: ApiDeps;
  options: ResolvedOptions;
  gate: Gate;
  catalog: Catalog;
  inbox: Inbox;
  lookup: Lookup;
  starts: Starts;
  watch: SagaWatch;
}

/** Where a set of routes is mounted: without a namespace in the path, or with one. */
export interface Scope {
  namespaced: boolean;
  /** Path parameters, with the namespace where the path has it. */
  params<S extends z.ZodRawShape>(
    shape: S,
  ): z.ZodObject<S & { namespace: z.ZodOptional<z.ZodString> }, z.core.$strict>;
  /** Name of an operation, unique over both mounts. */
  operation(name: string): string;
}

export function scopeOf(namespaced: boolean): Scope {
  return {
    namespaced,
    params: (shape) => {
      const object = z.strictObject(namespaced ? { namespace, ...shape } : shape);
      // The type has the namespace as optional in both mounts; the path decides whether it is there.
      return object as never;
    },
    operation: (name) => (namespaced ? `${name}InNamespace` : name),
  };
}

/** What of a request tells the namespace, and who asks. */
interface Asking {
  params: { namespace?: string | undefined; sagaId?: string; commandId?: string };
  principal: Principal;
}

/**
 * The namespace that a request is about, once its principal is known to have it. One that is named is refused by name;
 * a saga that is addressed by its id alone is told as unknown, so that nobody learns what others have.
 * @throws ApiError FORBIDDEN, SAGA_UNKNOWN; NAMESPACE_UNKNOWN when this deployment does not serve it
 */
export function namespaceOf(context: Context, { params, principal }: Asking): string {
  const name = params.namespace ?? 'default';
  if (!mayUse(principal, name)) {
    const sagaId = params.sagaId ?? params.commandId?.split('.')[0];
    if (params.namespace === undefined && sagaId !== undefined) throw sagaUnknown(name, sagaId);
    throw new ApiError(
      'FORBIDDEN',
      `Your credentials are not for namespace "${name}"${params.namespace === undefined ? ', which paths without a namespace mean' : ''}.`,
    );
  }
  return served(context, name);
}

/** For what is the same in all namespaces, a path that names none may be used by anyone. */
export function namespaceOfLinks(context: Context, asking: Asking): string {
  if (asking.params.namespace === undefined) return 'default';
  return namespaceOf(context, asking);
}

function served(context: Context, name: string): string {
  const served = context.deps.topology.namespaces;
  if (name === 'default' || served === undefined || served.includes(name)) return name;
  throw new ApiError(
    'NAMESPACE_UNKNOWN',
    `Namespace "${name}" is not served here. Use one of this deployment's, or add it to its settings.`,
  );
}

/** What the gate may say; a key is looked up in the database. */
const ACCESS = [
  'UNAUTHENTICATED',
  'FORBIDDEN',
  'RATE_LIMITED',
  'IDENTITY_UNAVAILABLE',
  'DATABASE_UNAVAILABLE',
] as const satisfies readonly ErrorCode[];

type Kind = 'public' | 'plain' | 'read' | 'write';
/** What each kind of route may be refused with, whatever it does. */
const COMMON: { readonly [kind in Kind]: readonly ErrorCode[] } = {
  public: ['INPUT_INVALID', 'RATE_LIMITED', 'INTERNAL'],
  plain: [...ACCESS, 'INPUT_INVALID', 'INTERNAL'],
  read: [...ACCESS, 'INPUT_INVALID', 'NAMESPACE_UNKNOWN', 'INTERNAL'],
  write: [
    ...ACCESS,
    'INPUT_INVALID',
    'PAYLOAD_REFUSED',
    'NAMESPACE_UNKNOWN',
    'BUS_UNAVAILABLE',
    'OVERLOADED',
    'NODE_LEASE_LOST',
    'CLOCK_BACKWARDS',
    'INTERNAL',
  ],
};
/** Statuses of bodies, and of connections: the first only where a body is read, the second before any route. */
const BODY_STATUSES: ReadonlySet<number> = new Set([413, 415, 422]);
const CONNECTION_STATUSES: ReadonlySet<number> = new Set([408, 414, 431]);

type Answer =
  z.ZodType | { description: string; content: { [type: string]: { schema: z.ZodType } } };

/**
 * The answers of a route: its own by status, and the problems that it may be refused with.
 * @param codes beyond the ones that every route of the kind has
 */
export function answers<const S extends { readonly [status: number]: Answer }>(
  kind: Kind,
  own: S,
  codes: readonly ErrorCode[] = [],
): S {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of [...COMMON[kind], ...codes]) {
    for (const status of statusesOf(code)) {
      if (CONNECTION_STATUSES.has(status)) continue;
      if (kind !== 'write' && BODY_STATUSES.has(status)) continue;
      byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
    }
  }
  const responses: { [status: number]: Answer } = {};
  for (const [status, answer] of Object.entries(own)) {
    // `z.undefined()` is an answer without a body.
    const whole = 'content' in answer || answer instanceof z.ZodUndefined;
    responses[Number(status)] = whole ? answer : json(STATUS_WORDS[status] ?? 'Answer.', answer);
  }
  for (const [status, refused] of byStatus) {
    const own = responses[status];
    const content = { 'application/problem+json': { schema: problem } };
    responses[status] = {
      description: `${refused.join(', ')}.`,
      content: own !== undefined && 'content' in own ? { ...own.content, ...content } : content,
    };
  }
  return responses as unknown as S;
}

const STATUS_WORDS: { readonly [status: string]: string } = {
  200: 'Done.',
  201: 'Made, and durable.',
  202: 'Accepted, and durable.',
};

function json(description: string, schema: z.ZodType): Answer {
  return { description, content: { 'application/json': { schema } } };
}
