/** The process itself: index, health, readiness, metrics, and the OpenAPI document. */
import { z } from 'zod';
import { answers, type App, type Context } from '../context.ts';
import { ApiError, asApiError } from '../problems.ts';
import * as shape from '../schemas.ts';

export function processRoutes(app: App, context: Context): void {
  indexRoute(app, context);
  healthRoutes(app, context);
  app.get(
    '/metrics',
    {
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

function healthRoutes(app: App, context: Context): void {
  app.get(
    '/healthz',
    {
      exposeHeadRoute: true,
      schema: {
        operationId: 'getHealth',
        tags: ['process'],
        summary: 'The process is up; asks nothing else',
        response: answers('plain', { 200: z.object({ status: z.literal('ok') }) }),
      },
    },
    async () => ({ status: 'ok' as const }),
  );
  const database = singleFlight(() => context.deps.reader.ping());
  const bus = singleFlight(() => context.deps.bus.ping());
  const checks = z.object({ database: z.string(), bus: z.string() });
  app.get(
    '/readyz',
    {
      exposeHeadRoute: true,
      schema: {
        operationId: 'getReadiness',
        tags: ['process'],
        summary: 'The database and the bus answer',
        response: answers('plain', { 200: z.object({ status: z.literal('ready'), checks }) }, [
          'DATABASE_UNAVAILABLE',
          'BUS_UNAVAILABLE',
        ]),
      },
    },
    async () => {
      const [databaseState, busState] = await Promise.all([
        check(context, database),
        check(context, bus),
      ]);
      const states = { database: databaseState, bus: busState };
      if (databaseState === 'ok' && busState === 'ok')
        return { status: 'ready' as const, checks: states };
      throw new ApiError(
        databaseState === 'ok' ? 'BUS_UNAVAILABLE' : 'DATABASE_UNAVAILABLE',
        `Not ready: ${Object.entries(states)
          .filter(([, state]) => state !== 'ok')
          .map(([name, state]) => `${name} ${state}`)
          .join(', ')}.`,
        { members: { checks: states } },
      );
    },
  );
}

/** `ok`, `no answer in N ms`, or the code that it failed with; never the adapter's own words. */
async function check(context: Context, ping: () => Promise<void>): Promise<string> {
  const { clock } = context.deps;
  const { readyTimeoutMs } = context.options;
  const done = new AbortController();
  const asked = ping().then(
    () => 'ok',
    (error: unknown) => `failed (${asApiError(error).error.code})`,
  );
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
function singleFlight(ask: () => Promise<void>): () => Promise<void> {
  let flight: Promise<void> | null = null;
  return () => {
    flight ??= ask().finally(() => {
      flight = null;
    });
    return flight;
  };
}
