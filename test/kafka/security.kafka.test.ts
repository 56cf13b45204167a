/**
 * A broker that wants TLS and a login: by the bus's options, and by the settings of a process.
 *
 * Guards that both mechanisms work, that each wrong setting is told in bounded time with its remedy, and
 * that no password is ever logged. Uses a broker of its own, since the shared one speaks plain text.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import type { BusLog, KafkaBusOptions, KafkaSasl } from '../../engine/kafka/options.ts';
import { message } from '../conformance/bus-conformance.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { startProcess } from '../e2e/processes.ts';
import { selfSigned } from '../support/certificates.ts';
import { KafkaServer, missingForKafka } from '../support/kafka-server.ts';
import { kafkaBrokers } from '../support/kafka.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

const shared = kafkaBrokers();
const skipped = shared === null || missingForKafka() !== null;
const PASSWORDS = { ann: 'plain-geheim-1', bob: 'scram-geheim-2', wrong: 'falsch-geheim-3' };
const ann: KafkaSasl = { mechanism: 'plain', username: 'ann', password: PASSWORDS.ann };
const bob: KafkaSasl = { mechanism: 'scram-sha-512', username: 'bob', password: PASSWORDS.bob };
/** Of one publish; a ping has 3 s, and a call may take a moment more than its limit to say so. */
const BUDGET_MS = 4_000;
const GRACE_MS = 3_000;

describe.skipIf(skipped)('a broker that wants TLS and a login', () => {
  let folder: string;
  let server: KafkaServer;
  let brokers: string[];
  /** PEM of the broker's authority, and of one that it doesn't know. */
  let ca: string;
  let otherCa: string;
  const said: string[] = [];
  const note = (fields: object, text: string): void => {
    const errors = (_: string, value: unknown): unknown =>
      value instanceof Error ? `${value.stack} ${JSON.stringify(value)}` : value;
    said.push(`${text} ${JSON.stringify(fields, errors)}`);
  };
  const log: BusLog = { debug: note, info: note, warn: note, error: note };
  const open = (options: Partial<KafkaBusOptions>): ReturnType<typeof createKafkaBus> =>
    createKafkaBus({ brokers, log, publishTimeoutMs: BUDGET_MS, ...options });

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sagax-security-'));
    const [broker, other] = await Promise.all([
      selfSigned(folder, 'broker'),
      selfSigned(folder, 'other'),
    ]);
    ca = broker.certificate;
    otherCa = other.certificate;
    await writeFile(join(folder, 'ca.pem'), ca);
    server = new KafkaServer({
      secured: {
        keystore: broker.keystore,
        plainUsers: { ann: PASSWORDS.ann },
        scramUsers: { bob: PASSWORDS.bob },
      },
    });
    brokers = await server.start();
  });
  afterAll(async () => {
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });
  it.each([
    ['PLAIN', ann],
    ['SCRAM-SHA-512', bob],
  ] as const)('carries messages with %s over TLS', async (mechanism, sasl) => {
    const bus = open({ tls: { ca }, sasl });
    const topic = `by-${mechanism.toLowerCase()}`;
    await bus.ping();
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    const recorder = new BusRecorder();
    const subscription = bus.subscribe(recorder.options({ group: topic, topics: [topic] }));
    await bus.publish([message(topic, 0, 'a'), message(topic, 0, 'b')]);
    await recorder.until(() => recorder.messages.length === 2);
    expect(recorder.values).toEqual(['a', 'b']);
    await subscription.close();
    await bus.close();
  });

  const wrong: [what: string, options: () => Partial<KafkaBusOptions>, remedy: RegExp][] = [
    [
      'a wrong password for PLAIN',
      () => ({ tls: { ca }, sasl: { ...ann, password: PASSWORDS.wrong } }),
      /KAFKA_SASL_PASSWORD/,
    ],
    [
      'a wrong password for SCRAM',
      () => ({ tls: { ca }, sasl: { ...bob, password: PASSWORDS.wrong } }),
      /KAFKA_SASL_PASSWORD/,
    ],
    [
      'a mechanism that the broker lacks',
      () => ({ tls: { ca }, sasl: { ...bob, mechanism: 'scram-sha-256' } }),
      /Set KAFKA_SASL_MECHANISM/,
    ],
    [
      'a certificate that is not trusted',
      () => ({ tls: { ca: otherCa }, sasl: ann }),
      /Set KAFKA_TLS_CA_FILE/,
    ],
    ['an authority that no system has', () => ({ tls: true, sasl: ann }), /Set KAFKA_TLS_CA_FILE/],
    ['plain text on a TLS port', () => ({ sasl: ann }), /KAFKA_TLS=true/],
    ['no login', () => ({ tls: { ca } }), /set KAFKA_SASL_MECHANISM/],
    ['TLS on a plain text port', () => ({ brokers: shared ?? [], tls: { ca } }), /unset KAFKA_TLS/],
    [
      'a login on a port without one',
      () => ({ brokers: shared ?? [], sasl: ann }),
      /unset KAFKA_SASL_MECHANISM/,
    ],
  ];
  it.each(wrong)('says what to do about %s', async (_, options, remedy) => {
    const bus = open(options());
    const startedAt = performance.now();
    const refused = { code: 'BUS_UNAVAILABLE', message: expect.stringMatching(remedy) as string };
    await Promise.all([
      expect(bus.ping()).rejects.toMatchObject(refused),
      expect(bus.publish([message('any', 0, 'a')])).rejects.toMatchObject(refused),
    ]);
    expect(performance.now() - startedAt).toBeLessThan(BUDGET_MS + GRACE_MS);
    await bus.close();
  });

  it('has logged no password in all of this', () => {
    expect(said.length).toBeGreaterThan(0);
    for (const password of Object.values(PASSWORDS)) {
      expect(said.filter((line) => line.includes(password))).toEqual([]);
    }
  });

  it('refuses certificates that are none before it connects', () => {
    const refused = (text: RegExp): object =>
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(text) });
    expect(() => open({ tls: { ca: 'nonsense' } })).toThrow(refused(/KAFKA_TLS_CA_FILE/));
    expect(() => open({ tls: { ca, cert: ca, key: 'nonsense' } })).toThrow(
      refused(/KAFKA_TLS_KEY_FILE/),
    );
  });

  describe('by the settings of a process', () => {
    let database: TestDatabase;
    beforeAll(async () => {
      database = await testDatabase();
    });
    afterAll(() => database?.drop());
    const engine = (password: string): ReturnType<typeof startProcess> =>
      startProcess('engine', {
        DATABASE_URL: database.url,
        KAFKA_BROKERS: brokers.join(','),
        KAFKA_TLS: 'true',
        KAFKA_TLS_CA_FILE: join(folder, 'ca.pem'),
        KAFKA_SASL_MECHANISM: 'scram-sha-512',
        KAFKA_SASL_USERNAME: 'bob',
        KAFKA_SASL_PASSWORD: password,
        SAGAX_SHARDS: '2',
        SAGAX_COMMAND_PARTITIONS: '1',
        SAGAX_LOG_LEVEL: 'debug',
      });

    it('an engine runs, and drains', async () => {
      const running = engine(PASSWORDS.bob);
      await running.line(/the engine runs/);
      running.kill('SIGTERM');
      expect(await running.ended).toBe(0);
      expect(running.said()).not.toContain(PASSWORDS.bob);
    });

    it('an engine with a wrong password ends, and names the setting', async () => {
      const refused = engine(PASSWORDS.wrong);
      // 69: something that it needs is unavailable.
      expect(await refused.ended).toBe(69);
      expect(refused.said()).toMatch(/BUS_UNAVAILABLE: .*KAFKA_SASL_PASSWORD/);
      expect(refused.said()).not.toContain(PASSWORDS.wrong);
    });
  });
});
