/**
 * What the API stands on: ports only, so that it runs on any bus and store, and in tests on neither.
 */
import type { FastifyBaseLogger } from 'fastify';
import type { Registry } from 'prom-client';
import type { AnyDefinition } from '../engine/core/define.ts';
import type { Bus, Clock } from '../engine/ports.ts';
import type { ApiKeys, AuditLog } from '../engine/ports-access.ts';
import type { DeadLetters, SagaReader, StartKeys } from '../engine/ports-read.ts';
import type { JwtOptions } from './access/jwt.ts';

/** Who may use the API. */
export interface AccessDeps {
  /** False lets everyone in who calls from this machine; for an API that listens on a loopback address only. */
  required: boolean;
  apiKeys: ApiKeys;
  auditLog: AuditLog;
  /** A whole key (`sgx_…`) out of the settings, of an admin over everything. */
  adminKey?: string;
  /** The identity provider whose tokens are taken; none when not given. */
  jwt?: JwtOptions;
}

export interface ApiDeps {
  access: AccessDeps;
  bus: Pick<Bus, 'publish' | 'ping'>;
  reader: SagaReader;
  startKeys: StartKeys;
  deadLetters: DeadLetters;
  /** Snowflake ids. @throws SagaxError NODE_LEASE_LOST, CLOCK_BACKWARDS */
  ids: { next(): string };
  clock: Clock;
  /** All versions that may be started or are still running. */
  definitions: readonly AnyDefinition[];
  topology: {
    topicPrefix: string;
    /** Partitions of the inbox topic. */
    shards: number;
    /** Namespaces that are served; every valid name when not given. `default` is always served. */
    namespaces?: readonly string[];
  };
  /** Where the metrics of this process are kept; served at /metrics. */
  metrics: Registry;
}

export interface ApiOptions {
  /** Default: nothing is logged. */
  logger?: FastifyBaseLogger;
  /** Shown in the OpenAPI document. */
  version?: string;
  /** Long polls and event streams under way in this process; more get OVERLOADED. One principal may have half. Default 5,000. */
  maxWaiters?: number;
  /** Messages waiting for the bus in this process; more get OVERLOADED. Default 10,000. */
  maxQueuedMessages?: number;
  /** How long a saga that was accepted a moment ago is waited for before a 404. Default 2,000 ms. */
  visibilityWaitMs?: number;
  /** Comment sent on a silent event stream, so that proxies keep it open. Default 15,000 ms. */
  heartbeatMs?: number;
  /** How long /readyz waits for each thing it asks. Default 2,000 ms. */
  readyTimeoutMs?: number;
  /** Requests a second that one principal may make of this process, or one address that has none. Default 10,000. */
  rateLimitPerS?: number;
  /** Refused credentials a minute after which an address may try no others. Default 30. */
  authFailuresPerMin?: number;
  /** Connections of this process; more are closed at once. Default 10,000. */
  maxConnections?: number;
  /** How long `close` lets answers under way get out before it cuts off what is left. Default 20,000 ms. */
  drainMs?: number;
  /** Addresses of proxies whose X-Forwarded-For is believed. Default: none. */
  trustProxy?: readonly string[];
  /** Adds Node's own metrics (heap, event loop, GC) to the registry. Default false. */
  processMetrics?: boolean;
}

export const DEFAULT_OPTIONS = {
  version: '0.1.0',
  maxWaiters: 5_000,
  maxQueuedMessages: 10_000,
  visibilityWaitMs: 2_000,
  heartbeatMs: 15_000,
  readyTimeoutMs: 2_000,
  rateLimitPerS: 10_000,
  authFailuresPerMin: 30,
  maxConnections: 10_000,
  drainMs: 20_000,
  trustProxy: [],
  processMetrics: false,
} as const;

export type ResolvedOptions = Required<Omit<ApiOptions, 'logger'>>;

export function resolveOptions(options: ApiOptions): ResolvedOptions {
  const { logger: _logger, ...given } = options;
  return { ...DEFAULT_OPTIONS, ...given };
}
