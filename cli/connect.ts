/**
 * Connections of a process: event log, bus, participants' database, by the settings.
 *
 * Guards that what is opened is closed, in reverse, whatever fails on the way.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { SagaxError } from '../engine/core/errors.ts';
import { createKafkaBus } from '../engine/kafka/bus.ts';
import type { KafkaSasl, KafkaTls } from '../engine/kafka/options.ts';
import type { Bus, Clock } from '../engine/ports.ts';
import { createPostgresBus, type PostgresBus } from '../engine/postgres/bus.ts';
import { openPostgres } from '../engine/postgres/index.ts';
import { openSpread, type LogPorts } from '../engine/postgres/spread.ts';
import type { Settings } from './settings.ts';
import { createTelemetry, type ProcessTelemetry } from './telemetry.ts';

/** How often messages that every group has done with are deleted from the Postgres bus, and how many at once. */
const TRIM_EVERY_MS = 5_000;
/** Of one statement, so that none takes long, and the pause between two. */
const TRIM_LIMIT = 500;
const TRIM_PAUSE_MS = 10;

/** What a process has open. */
export interface Connections {
  settings: Settings;
  telemetry: ProcessTelemetry;
  /** Names this process in leases. */
  owner: string;
  postgres: LogPorts;
  bus: Bus;
  /** The first database of the log: what there is one of lives there. */
  databaseUrl: string;
}

/** Things to close, last opened first. */
export class Closers {
  readonly #closers: (() => Promise<unknown>)[] = [];
  #isClosing = false;
  /** Whether the end has begun: what dies from here on was to die. */
  get isClosing(): boolean {
    return this.#isClosing;
  }
  add(close: () => Promise<unknown>): void {
    this.#closers.push(close);
  }
  /** Closes all, even when one fails. @throws the first failure */
  async close(): Promise<void> {
    this.#isClosing = true;
    let failure: Error | undefined;
    for (const close of this.#closers.splice(0).reverse()) {
      try {
        await close();
      } catch (error) {
        failure ??= error instanceof Error ? error : new Error(String(error));
      }
    }
    if (failure !== undefined) throw failure;
  }
}

export function ownerName(role: string): string {
  return `${role}@${hostname()}#${process.pid}-${randomBytes(4).toString('hex')}`;
}

/** @throws SagaxError CONFIG_INVALID, DATABASE_UNAVAILABLE, BUS_UNAVAILABLE, SCHEMA_NEWER, TOPOLOGY_MISMATCH */
export async function connect(
  settings: Settings,
  role: string,
  closers: Closers,
  url?: string,
): Promise<Connections> {
  const urls = settings.SAGAX_LOG_DATABASES ?? [];
  const databaseUrl = urls[0] ?? url ?? settings.DATABASE_URL;
  if (databaseUrl === undefined) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `\`${role}\` needs DATABASE_URL, e.g. DATABASE_URL=postgres://sagax:secret@db.internal:5432/sagax. ` +
        'Only `npm start` brings a Postgres of its own.',
    );
  }
  const telemetry = createTelemetry(settings.SAGAX_LOG_LEVEL);
  const owner = ownerName(role);
  const options = {
    applicationName: owner.slice(0, 63),
    max: settings.SAGAX_DATABASE_CONNECTIONS,
    bus: settings.KAFKA_BROKERS === undefined,
    onIdleError: (error: Error) => {
      if (closers.isClosing) return;
      telemetry.log.warn({ err: error }, 'an idle database connection died; it is replaced');
    },
    ...(settings.SAGAX_SHARDS === undefined ? {} : { shards: settings.SAGAX_SHARDS }),
  };
  const onTrouble = (what: string, error: unknown): void => {
    if (!closers.isClosing) telemetry.log.warn({ err: error ?? undefined }, what);
  };
  const postgres =
    urls.length > 1
      ? await openSpread({ ...options, urls, onTrouble })
      : await openPostgres({ ...options, url: databaseUrl });
  closers.add(() => postgres.close());
  const bus = await openBus(settings, databaseUrl, telemetry, postgres.clock, closers);
  closers.add(() => bus.close());
  await bus.ping();
  return { settings, telemetry, owner, postgres, bus, databaseUrl };
}

async function openBus(
  settings: Settings,
  url: string,
  telemetry: ProcessTelemetry,
  clock: Clock,
  closers: Closers,
): Promise<Bus> {
  const brokers = settings.KAFKA_BROKERS;
  if (brokers === undefined) {
    const bus = createPostgresBus({ url, log: telemetry.log });
    keepTrimmed(bus, telemetry, clock, closers);
    return bus;
  }
  const tls = await kafkaTls(settings);
  const sasl = kafkaSasl(settings);
  return createKafkaBus({
    brokers,
    log: telemetry.log,
    ...(tls === undefined ? {} : { tls }),
    ...(sasl === undefined ? {} : { sasl }),
    ...(settings.KAFKA_REPLICATION_FACTOR === undefined
      ? {}
      : { replicationFactor: settings.KAFKA_REPLICATION_FACTOR }),
  });
}

async function kafkaTls(settings: Settings): Promise<boolean | KafkaTls | undefined> {
  if (!settings.KAFKA_TLS) return undefined;
  const tls: KafkaTls = {};
  const { KAFKA_TLS_CA_FILE: ca, KAFKA_TLS_CERT_FILE: cert, KAFKA_TLS_KEY_FILE: key } = settings;
  if (ca !== undefined) tls.ca = await readSetting('KAFKA_TLS_CA_FILE', ca);
  if (cert !== undefined) tls.cert = await readSetting('KAFKA_TLS_CERT_FILE', cert);
  if (key !== undefined) tls.key = await readSetting('KAFKA_TLS_KEY_FILE', key);
  return Object.keys(tls).length === 0 ? true : tls;
}

async function readSetting(name: string, path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `${name}=${path} can't be read: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

function kafkaSasl(settings: Settings): KafkaSasl | undefined {
  const {
    KAFKA_SASL_MECHANISM: mechanism,
    KAFKA_SASL_USERNAME: username,
    KAFKA_SASL_PASSWORD: password,
  } = settings;
  return mechanism === undefined || username === undefined || password === undefined
    ? undefined
    : { mechanism, username, password };
}

/** What every group has done with is deleted, in bounded pieces; any number of processes may do it. */
function keepTrimmed(
  bus: PostgresBus,
  telemetry: ProcessTelemetry,
  clock: Clock,
  closers: Closers,
): void {
  const stop = new AbortController();
  const run = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      await clock.sleep(TRIM_EVERY_MS, stop.signal);
      if (stop.signal.aborted) return;
      try {
        while ((await bus.trim(TRIM_LIMIT)) === TRIM_LIMIT && !stop.signal.aborted)
          await clock.sleep(TRIM_PAUSE_MS, stop.signal);
      } catch (error) {
        telemetry.log.warn({ err: error }, 'the bus could not be trimmed; it is tried again');
      }
    }
  };
  const running = run();
  closers.add(() => {
    stop.abort();
    return running;
  });
}
