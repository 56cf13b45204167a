/**
 * What a deployment can set for the Kafka bus, and how that becomes kafkajs's own configuration.
 *
 * Guards that no kafkajs type, log line or warning leaves this folder: settings come in as plain data,
 * and what kafkajs has to say goes to the logger that was given.
 */
import { createSecureContext } from 'node:tls';
import { logLevel, type KafkaConfig, type SASLOptions } from 'kafkajs';
import { SagaxError } from '../core/errors.ts';
import { Connections } from './failures.ts';

/** Where the bus reports; a pino logger fits. */
export interface BusLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export type KafkaSasl =
  | { mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'; username: string; password: string }
  /** `token` is called on each (re)authentication. */
  | { mechanism: 'oauthbearer'; token: () => Promise<string> };

export interface KafkaTls {
  /** PEM of the authorities to trust. Default: the system's. */
  ca?: string;
  /** PEM of the client's certificate and key, for mutual TLS. */
  cert?: string;
  key?: string;
  servername?: string;
  /** Only for tests against a self-signed broker. */
  rejectUnauthorized?: boolean;
}

export interface KafkaBusOptions {
  /** `host:port` of one or more brokers. */
  brokers: readonly string[];
  clientId?: string;
  tls?: boolean | KafkaTls;
  sasl?: KafkaSasl;
  log?: BusLog;
  /** Time all of a `publish` has, retries included. Default 10 s. */
  publishTimeoutMs?: number;
  compression?: 'none' | 'gzip';
  /** For topics made by `ensureTopics`. Default: the broker's `default.replication.factor`. */
  replicationFactor?: number;
  /** A member that is silent for this long loses its partitions. Default 10 s. */
  sessionTimeoutMs?: number;
  /** How long a rebalance waits for the other members. Default 15 s. */
  rebalanceTimeoutMs?: number;
  /** Longest wait of the broker for messages; a paused partition goes on after at most this. Default 250 ms. */
  fetchWaitMs?: number;
}

export interface KafkaSettings {
  client: KafkaConfig;
  connections: Connections;
  log: BusLog;
  publishTimeoutMs: number;
  gzip: boolean;
  replicationFactor: number;
  sessionTimeoutMs: number;
  rebalanceTimeoutMs: number;
  fetchWaitMs: number;
}

const SILENT: BusLog = { debug() {}, info() {}, warn() {}, error() {} };

/** @throws SagaxError CONFIG_INVALID */
export function kafkaSettings(options: KafkaBusOptions): KafkaSettings {
  if (options.brokers.length === 0 || options.brokers.some((broker) => !/:\d+$/.test(broker))) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `Kafka brokers must be "host:port"; got "${options.brokers.join(',')}". Set KAFKA_BROKERS.`,
    );
  }
  if (typeof options.tls === 'object') assertUsable(options.tls);
  const log = options.log ?? SILENT;
  const connections = new Connections({
    tls: options.tls !== undefined && options.tls !== false,
    sasl: options.sasl !== undefined,
  });
  return {
    client: clientConfig(options, log, connections),
    connections,
    log,
    publishTimeoutMs: options.publishTimeoutMs ?? 10_000,
    gzip: options.compression === 'gzip',
    // -1 asks the broker for its own default.
    replicationFactor: options.replicationFactor ?? -1,
    sessionTimeoutMs: options.sessionTimeoutMs ?? 10_000,
    rebalanceTimeoutMs: options.rebalanceTimeoutMs ?? 15_000,
    fetchWaitMs: options.fetchWaitMs ?? 250,
  };
}

/** Node takes a text without a certificate for an empty list of authorities, and trusts nobody then. */
function assertUsable({ ca, cert, key }: KafkaTls): void {
  if (ca !== undefined && !ca.includes('-----BEGIN CERTIFICATE-----')) {
    throw new SagaxError(
      'CONFIG_INVALID',
      'The authorities to trust hold no certificate in PEM ("-----BEGIN CERTIFICATE-----"). Check KAFKA_TLS_CA_FILE.',
    );
  }
  try {
    createSecureContext({
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
    });
  } catch (error) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `The TLS certificates can't be used: ${(error as Error).message}. Check that KAFKA_TLS_CA_FILE, ` +
        'KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE are PEM, and that key and certificate belong together.',
      { cause: error },
    );
  }
}

function clientConfig(
  options: KafkaBusOptions,
  log: BusLog,
  connections: Connections,
): KafkaConfig {
  const config: KafkaConfig = {
    brokers: [...options.brokers],
    clientId: options.clientId ?? 'sagax',
    socketFactory: connections.socketFactory,
    connectionTimeout: 2_000,
    authenticationTimeout: 5_000,
    requestTimeout: 8_000,
    // About 6 s in all, so that the publisher's own limit is what ends a call.
    retry: { initialRetryTime: 100, multiplier: 2, factor: 0.2, maxRetryTime: 2_000, retries: 6 },
    logLevel: logLevel.INFO,
    logCreator: () => (entry) => forward(log, entry),
  };
  if (options.tls !== undefined) config.ssl = options.tls;
  if (options.sasl !== undefined) config.sasl = saslConfig(options.sasl);
  return config;
}

function saslConfig(sasl: KafkaSasl): SASLOptions {
  if (sasl.mechanism !== 'oauthbearer') return { ...sasl };
  const { token } = sasl;
  return {
    mechanism: 'oauthbearer',
    oauthBearerProvider: async () => ({ value: await token() }),
  };
}

/** kafkajs's levels as the numbers that its log entries carry. */
const LEVELS: { error: number; warn: number } = { error: logLevel.ERROR, warn: logLevel.WARN };

function forward(log: BusLog, entry: { level: number; namespace: string; log: object }): void {
  const { message, timestamp, logger, ...fields } = entry.log as { [name: string]: unknown };
  const text = `kafkajs ${entry.namespace}: ${String(message)}`;
  // What kafkajs calls an error is as a rule one failed try of several, and it logs each one.
  if (entry.level <= LEVELS.error) log.warn(fields, text);
  else if (entry.level === LEVELS.warn) log.info(fields, text);
  else log.debug(fields, text);
}

let warningFiltered = false;

/**
 * Swallows Node's TimeoutNegativeWarning where kafkajs 2.2.4 causes it (tulios/kafkajs#1751: it computes a
 * throttle from -1). Any other warning, and the same one from elsewhere, is passed on.
 */
export function filterTimeoutWarning(): void {
  if (warningFiltered) return;
  warningFiltered = true;
  const emit = process.emitWarning.bind(process) as (...args: unknown[]) => void;
  process.emitWarning = (...args: unknown[]): void => {
    const [warning, type] = args;
    const name = typeof type === 'string' ? type : (type as { type?: string } | undefined)?.type;
    if (name === 'TimeoutNegativeWarning' && String(new Error().stack).includes('kafkajs')) return;
    emit(warning, ...args.slice(1));
  };
}
