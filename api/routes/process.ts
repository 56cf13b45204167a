/** The process itself: index, health, readiness, metrics, and the OpenAPI document. */
import { z } from 'zod';
import { answers, type App, type Context } from '../context.ts';
import { Missing } from '../missing.ts';
import { ApiError, asApiError } from '../problems.ts';
import * as shape from '../schemas.ts';

export function processRoutes(app: App, context: Context): void {
  indexRoute(app, context);
  healthRoutes(app, context);
  app.get(
    '/metrics',
    {
      config: { access: 'reader', allNamespaces: true },
      schema: {
        operationId: 'getMetrics',
        tags: ['process'],
        summary: 'Metrics in the Prometheus text format',
        response: answers('plain', {
          200: { description: 'The metrics.', content: { 'text/plain': { schema: z.string() } } },
        }),
      },
    },
    async (_request, reply) => {
      const { metrics } = context.deps;
      return reply.type(metrics.contentType).send(await metrics.metrics());
    },
  );
  app.get(
    '/openapi.json',
    {
      config: { access: 'reader' },
      schema: {
        operationId: 'getOpenApi',
        tags: ['process'],
        summary: 'This document',
        response: answers('plain', { 200: z.record(z.string(), z.unknown()) }),
      },
    },
    async () => app.swagger() as unknown as Record<string, unknown>,
  );
}

function indexRoute(app: App, context: Context): void {
  const index = z.object({ name: z.string(), version: z.string(), links: shape.links });
  app.get(
    '/',
    {
      config: { access: 'reader' },
      schema: {
        operationId: 'getIndex',
        tags: ['process'],
        summary: 'Where to go from here',
        response: answers('plain', { 200: index }),
      },
    },
    async () => ({
      name: 'Sagax',
      version: context.options.version,
      links: {
        openapi: '/openapi.json',
        sagas: '/v1/sagas',
        definitions: '/v1/definitions',
        deadLetters: '/v1/dead-letters',
        shards: '/v1/shards',
        health: '/healthz',
        ready: '/readyz',
        metrics: '/metrics',
      },
    }),
  );
}

/** What is answered when one of the checks fails, of several the first. */
const UNREADY = {
  database: 'DATABASE_UNAVAILABLE',
  bus: 'BUS_UNAVAILABLE',
  ids: 'NODE_LEASE_LOST',
} as const;

function healthRoutes(app: App, context: Context): void {
  app.get(
    '/healthz',
    {
      exposeHeadRoute: true,
      config: { access: 'public' },
      schema: {
        operationId: 'getHealth',
        tags: ['process'],
        summary: 'The process is up; asks nothing else',
        response: answers('public', { 200: z.object({ status: z.literal('ok') }) }),
      },
    },
    async () => ({ status: 'ok' as const }),
  );
  // A part of the log that is away leaves the process able to serve the others.
  const database = singleFlight(async () => {
    const missing = new Missing();
    await context.deps.reader.ping(missing.options);
    return missing.words;
  });
  const bus = singleFlight(async () => {
    await context.deps.bus.ping();
    return 'ok';
  });
  // Without a lease on a node id each start would be refused. One id more or less is nothing.
  const ids = async (): Promise<string> => {
    context.deps.ids.next();
    return 'ok';
  };
  const checks = z.object({ database: z.string(), bus: z.string(), ids: z.string() });
  app.get(
    '/readyz',
    {
      exposeHeadRoute: true,
      config: { access: 'public' },
      schema: {
        operationId: 'getReadiness',
        tags: ['process'],
        summary: 'The database and the bus answer, and ids can be made',
        response: answers('public', { 200: z.object({ status: z.literal('ready'), checks }) }, [
          'DATABASE_UNAVAILABLE',
          'BUS_UNAVAILABLE',
          'NODE_LEASE_LOST',
        ]),
      },
    },
    async () => {
      const [databaseState, busState, idsState] = await Promise.all([
        check(context, database),
        check(context, bus),
        check(context, ids),
      ]);
      const states = { database: databaseState, bus: busState, ids: idsState };
      const failing = Object.entries(states).filter(([, state]) => !state.startsWith('ok'));
      const first = failing[0]?.[0];
      if (first === undefined) return { status: 'ready' as const, checks: states };
      throw new ApiError(
        UNREADY[first as keyof typeof UNREADY],
        `Not ready: ${failing.map(([name, state]) => `${name} ${state}`).join(', ')}.`,
        { members: { checks: states } },
      );
    },
  );
}

/** What it says itself, `gave no answer in N ms`, or the code that it failed with; never the adapter's own words. */
async function check(context: Context, ping: () => Promise<string>): Promise<string> {
  const { clock } = context.deps;
  const { readyTimeoutMs } = context.options;
  const done = new AbortController();
  const asked = ping().catch((error: unknown) => `failed (${asApiError(error).error.code})`);
  const late = clock
    .sleep(readyTimeoutMs, done.signal)
    .then(() => `gave no answer in ${readyTimeoutMs} ms`);
  try {
    return await Promise.race([asked, late]);
  } finally {
    done.abort();
  }
}

/** Probes that come while one hangs share it, so that a dead database does not gather them. */
function singleFlight<T>(ask: () => Promise<T>): () => Promise<T> {
  let flight: Promise<T> | null = null;
  return () => {
    flight ??= ask().finally(() => {
      flight = null;
    });
    return flight;
  };
}
