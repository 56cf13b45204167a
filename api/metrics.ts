/** What this process tells about itself at /metrics: requests by route and status, waiters, queued messages. */
import type { FastifyInstance } from 'fastify';
import { collectDefaultMetrics, Gauge, Histogram, type Registry } from 'prom-client';
import type { watchEnds } from './ends.ts';
import type { Inbox } from './inbox.ts';
import type { SagaWatch } from './watch.ts';

/** Seconds; from a healthy start (some ms) to the longest long poll. */
const DURATION_BUCKETS_S = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function registerMetrics(
  app: FastifyInstance,
  registry: Registry,
  sources: {
    watch: SagaWatch;
    inbox: Inbox;
    processMetrics: boolean;
    onEnd: ReturnType<typeof watchEnds>;
  },
): void {
  const duration = new Histogram({
    name: 'sagax_api_request_duration_seconds',
    help: 'Time from the request to the end of its answer, by route and status.',
    labelNames: ['method', 'route', 'status'],
    buckets: DURATION_BUCKETS_S,
    registers: [registry],
  });
  new Gauge({
    name: 'sagax_api_waiters',
    help: 'Long polls and event streams under way.',
    registers: [registry],
    collect() {
      this.set(sources.watch.count);
    },
  });
  new Gauge({
    name: 'sagax_api_queued_messages',
    help: 'Inputs handed to the bus that are not durable yet.',
    registers: [registry],
    collect() {
      this.set(sources.inbox.queued);
    },
  });
  if (sources.processMetrics) collectDefaultMetrics({ register: registry });
  sources.onEnd((request, reply) => {
    // The route's pattern, never the path: ids would make a series each.
    const route = request.routeOptions.url ?? 'unknown';
    duration.observe(
      { method: request.method, route, status: String(reply.statusCode) },
      reply.elapsedTime / 1000,
    );
  });
}
