/**
 * A real Apache Kafka under the local Java: one KRaft node on free ports, its data in a temp folder.
 *
 * Guards that tests and benchmarks can boot, kill -9, restart and remove a broker without Docker. The
 * jars come from Maven Central once, into a cache folder; two processes that fetch at once are safe,
 * since the folder appears by a rename. A process that dies leaves no broker: see `stopOnExit`.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Admin } from '@platformatic/kafka';

export const KAFKA_VERSION = '4.3.1';
const JARS_FOLDER = join(homedir(), '.cache', 'sagax', `kafka-${KAFKA_VERSION}`);
/** The jars of 4.3.1 are 45; fewer than this means a broken download. */
const MIN_JARS = 20;
const FETCH_LIMIT_MS = 300_000;
/** A broker boots in 3-7 s; a loaded machine takes several times that. */
const BOOT_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 10_000;

const POM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev.sagax</groupId><artifactId>kafka-runtime</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${KAFKA_VERSION}</version>
  </dependency></dependencies>
</project>
`;

/** Why Kafka can't be run here, or null when it can. */
export function missingForKafka(): string | null {
  if (spawnSync('java', ['-version'], { stdio: 'ignore' }).status !== 0) {
    return 'no `java` on the PATH';
  }
  if (!existsSync(JARS_FOLDER) && spawnSync('mvn', ['-v'], { stdio: 'ignore' }).status !== 0) {
    return 'no `mvn` on the PATH to fetch Apache Kafka with';
  }
  return null;
}

/** Fetches Apache Kafka into the cache, unless it is there. @throws Error when Maven fails (no network). */
export async function fetchKafka(): Promise<void> {
  if (!existsSync(JARS_FOLDER)) await fetchJars();
}

async function fetchJars(): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'sagax-kafka-fetch-'));
  try {
    await writeFile(join(work, 'pom.xml'), POM);
    const jars = join(work, 'jars');
    const goal = 'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies';
    const maven = spawn(
      'mvn',
      ['-q', '-B', goal, '-DincludeScope=runtime', `-DoutputDirectory=${jars}`],
      { cwd: work, stdio: ['ignore', 'pipe', 'pipe'], timeout: FETCH_LIMIT_MS },
    );
    let output = '';
    for (const stream of [maven.stdout, maven.stderr]) {
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    }
    const [status] = (await once(maven, 'close')) as [number | null];
    if (status !== 0) {
      throw new Error(`Maven could not fetch Kafka ${KAFKA_VERSION}: ${output.slice(-2_000)}`);
    }
    if ((await readdir(jars)).length < MIN_JARS) {
      throw new Error(`Maven fetched too few jars for Kafka ${KAFKA_VERSION} into ${jars}.`);
    }
    await publishFolder(jars, JARS_FOLDER);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Moves a finished folder into its place; whoever comes second keeps the first one's. */
async function publishFolder(from: string, to: string): Promise<void> {
  await mkdir(join(to, '..'), { recursive: true });
  // The temp folder may be on another file system, where rename can't go: copy beside the target first.
  const beside = await mkdtemp(`${to}.part-`);
  await cp(from, beside, { recursive: true });
  try {
    await rename(beside, to);
  } catch (error) {
    await rm(beside, { recursive: true, force: true });
    if (!existsSync(to)) throw error;
  }
}

export interface KafkaServerOptions {
  /** More lines for server.properties. */
  properties?: { [name: string]: string };
  heapMb?: number;
  /** Clients must speak TLS and log in; without it they speak plain text. */
  secured?: SecuredListener;
}

interface Ports {
  client: number;
  controller: number;
  /** For the broker itself and for boot checks, beside a client listener that is secured. */
  internal: number;
}

export interface SecuredListener {
  /** PKCS12 with the broker's key and certificate (`selfSigned`). */
  keystore: { path: string; password: string };
  /** Who may log in with PLAIN, and who with SCRAM-SHA-512: name → password. */
  plainUsers: { [name: string]: string };
  scramUsers: { [name: string]: string };
}

/**
 * One broker. `start` boots it and returns its address; `kill` ends it at once and keeps its data;
 * `restart` boots it again on the same ports and data; `stop` ends it and removes its data.
 */
export class KafkaServer {
  readonly #options: KafkaServerOptions;
  readonly #folder: string;
  #ports: Ports | null = null;
  #process: ChildProcess | null = null;

  constructor(options: KafkaServerOptions = {}) {
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), 'sagax-kafka-'));
  }

  get brokers(): string[] {
    if (this.#ports === null) throw new Error('The broker has not been started.');
    return [`127.0.0.1:${this.#ports.client}`];
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  async start(): Promise<string[]> {
    const [client, controller, internal] = (await freePorts(3)) as [number, number, number];
    this.#ports = { client, controller, internal };
    const config = join(this.#folder, 'server.properties');
    mkdirSync(join(this.#folder, 'data'));
    await writeFile(config, this.#properties());
    const format = await this.#java(256, 'kafka.tools.StorageTool', [
      'format',
      '--cluster-id',
      'MkU3OEVBNTcwNTJENDM2Qg',
      '--config',
      config,
      ...Object.entries(this.#options.secured?.scramUsers ?? {}).flatMap(([name, password]) => [
        '--add-scram',
        `SCRAM-SHA-512=[name=${name},password=${password}]`,
      ]),
    ]);
    const [status] = (await once(format, 'exit')) as [number | null];
    if (status !== 0) throw new Error(`Formatting Kafka's storage failed: ${this.#logTail()}`);
    await this.#boot();
    return this.brokers;
  }

  /** Ends the broker, SIGKILL by default, and keeps its data. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const broker = this.#process;
    this.#process = null;
    if (broker === null || broker.exitCode !== null || broker.signalCode !== null) return;
    const gone = once(broker, 'exit');
    broker.kill(signal);
    const limit = AbortSignal.timeout(STOP_LIMIT_MS);
    limit.addEventListener('abort', () => broker.kill('SIGKILL'), { once: true });
    await gone;
  }

  /** Boots again on the same ports and data. */
  async restart(): Promise<void> {
    await this.kill('SIGTERM');
    await this.#boot();
  }

  async stop(): Promise<void> {
    await this.kill('SIGTERM');
    await rm(this.#folder, { recursive: true, force: true });
  }

  /** For `process.on('exit')`, where nothing can be awaited. */
  stopOnExit(): void {
    this.#process?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #boot(): Promise<void> {
    const config = join(this.#folder, 'server.properties');
    const broker = await this.#java(this.#options.heapMb ?? 512, 'kafka.Kafka', [config]);
    this.#process = broker;
    const until = performance.now() + BOOT_LIMIT_MS;
    while (!(await answers(this.#plainBrokers()))) {
      if (broker.exitCode !== null || broker.signalCode !== null) {
        throw new Error(`Kafka ended while it booted: ${this.#logTail()}`);
      }
      if (performance.now() > until) {
        await this.kill();
        throw new Error(`Kafka was not up after ${BOOT_LIMIT_MS} ms: ${this.#logTail()}`);
      }
      await delay(100);
    }
  }

  async #java(heapMb: number, main: string, args: string[]): Promise<ChildProcess> {
    await fetchKafka();
    const log = openSync(join(this.#folder, 'kafka.log'), 'a');
    const options = [`-Xmx${heapMb}m`, '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=4'];
    const child = spawn('java', [...options, '-cp', join(JARS_FOLDER, '*'), main, ...args], {
      cwd: this.#folder,
      stdio: ['ignore', log, log],
    });
    await once(child, 'spawn');
    return child;
  }

  #logTail(): string {
    return readFileSync(join(this.#folder, 'kafka.log'), 'utf8').slice(-2_000);
  }

  /** Where the broker answers plain text, whatever its clients have to speak. */
  #plainBrokers(): string[] {
    if (this.#options.secured === undefined) return this.brokers;
    return [`127.0.0.1:${this.#ports?.internal}`];
  }

  #listeners(): { [name: string]: string } {
    const { client, controller, internal } = this.#ports as Ports;
    const { secured } = this.#options;
    if (secured === undefined) {
      return {
        listeners: `PLAINTEXT://127.0.0.1:${client},CONTROLLER://127.0.0.1:${controller}`,
        'advertised.listeners': `PLAINTEXT://127.0.0.1:${client}`,
      };
    }
    const brokers = `INTERNAL://127.0.0.1:${internal},CLIENT://127.0.0.1:${client}`;
    const users = Object.entries(secured.plainUsers).map(
      ([name, word]) => `user_${name}="${word}"`,
    );
    const modules = 'org.apache.kafka.common.security';
    return {
      listeners: `${brokers},CONTROLLER://127.0.0.1:${controller}`,
      'advertised.listeners': brokers,
      'listener.security.protocol.map': 'INTERNAL:PLAINTEXT,CLIENT:SASL_SSL,CONTROLLER:PLAINTEXT',
      'inter.broker.listener.name': 'INTERNAL',
      'ssl.keystore.type': 'PKCS12',
      'ssl.keystore.location': secured.keystore.path,
      'ssl.keystore.password': secured.keystore.password,
      'sasl.enabled.mechanisms': 'PLAIN,SCRAM-SHA-512',
      'listener.name.client.plain.sasl.jaas.config': `${modules}.plain.PlainLoginModule required ${users.join(' ')};`,
      'listener.name.client.scram-sha-512.sasl.jaas.config': `${modules}.scram.ScramLoginModule required;`,
    };
  }

  #properties(): string {
    const { controller } = this.#ports as Ports;
    const properties: { [name: string]: string } = {
      'process.roles': 'broker,controller',
      'node.id': '1',
      'controller.quorum.voters': `1@127.0.0.1:${controller}`,
      ...this.#listeners(),
      'controller.listener.names': 'CONTROLLER',
      'log.dirs': join(this.#folder, 'data'),
      'auto.create.topics.enable': 'false',
      'offsets.topic.replication.factor': '1',
      'offsets.topic.num.partitions': '4',
      'transaction.state.log.replication.factor': '1',
      'transaction.state.log.min.isr': '1',
      'share.coordinator.state.topic.replication.factor': '1',
      'share.coordinator.state.topic.min.isr': '1',
      // A restarted broker waits until its dead self's session is over; 9 s by default.
      'broker.session.timeout.ms': '2000',
      'broker.heartbeat.interval.ms': '500',
      'group.initial.rebalance.delay.ms': '0',
      'group.min.session.timeout.ms': '1000',
      ...this.#options.properties,
    };
    return Object.entries(properties)
      .map(([name, value]) => `${name}=${value}\n`)
      .join('');
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}

/** Whether the broker answers a metadata request and has a controller. */
export async function answers(brokers: string[]): Promise<boolean> {
  const admin = new Admin({
    clientId: 'sagax-boot',
    bootstrapBrokers: brokers,
    retries: 0,
    timeout: 2_000,
    connectTimeout: 1_000,
  });
  try {
    await admin.metadata({ topics: [] });
    return true;
  } catch {
    return false;
  } finally {
    await admin.close();
  }
}
