/**
 * Vitest global set-up of the tests that need Kafka: finds or boots a broker once per run.
 *
 * In this order: KAFKA_BROKERS; a container where a Docker engine answers; Apache Kafka from Maven
 * Central under the local Java. With none of them the tests are skipped, and one line says why.
 */
import { request } from 'node:http';
import type { TestProject } from 'vitest/node';
import { fetchKafka, KAFKA_VERSION, KafkaServer, missingForKafka } from './kafka-server.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** Addresses of the brokers; null when there is no Kafka and its tests are skipped. */
    kafkaBrokers: string[] | null;
  }
}

interface Running {
  brokers: string[] | null;
  stop: () => Promise<void>;
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const running = await findKafka();
  project.provide('kafkaBrokers', running.brokers);
  return running.stop;
}

async function findKafka(): Promise<Running> {
  const given = process.env['KAFKA_BROKERS'];
  if (given !== undefined && given !== '') {
    return { brokers: given.split(',').map((broker) => broker.trim()), stop: async () => {} };
  }
  if (await dockerAnswers()) {
    try {
      return await startContainer();
    } catch (error) {
      console.log(`kafka: no container could be started (${(error as Error).message}).`);
    }
  }
  const missing = missingForKafka();
  if (missing !== null) return skipped(missing);
  try {
    await fetchKafka();
  } catch (error) {
    return skipped((error as Error).message);
  }
  // From here on everything is there: a broker that does not boot is a failure, not a reason to skip.
  return startLocal();
}

function skipped(reason: string): Running {
  console.log(
    `kafka: its tests are SKIPPED: KAFKA_BROKERS is not set, no Docker engine answers, and ${reason}.`,
  );
  return { brokers: null, stop: async () => {} };
}

async function startContainer(): Promise<Running> {
  const { KafkaContainer } = await import('@testcontainers/kafka');
  const container = await new KafkaContainer('confluentinc/cp-kafka:7.9.1').withKraft().start();
  const brokers = [`${container.getHost()}:${container.getMappedPort(9093)}`];
  return { brokers, stop: async () => void (await container.stop()) };
}

async function startLocal(): Promise<Running> {
  const server = new KafkaServer();
  const onExit = (): void => server.stopOnExit();
  // Vitest turns SIGINT into an orderly exit; these two would end the process without one.
  const onSignal = (signal: NodeJS.Signals): void => {
    onExit();
    forget();
    process.kill(process.pid, signal);
  };
  const forget = (): void => {
    process.removeListener('exit', onExit);
    process.removeListener('SIGTERM', onSignal);
    process.removeListener('SIGHUP', onSignal);
  };
  process.once('exit', onExit);
  process.once('SIGTERM', onSignal);
  process.once('SIGHUP', onSignal);
  try {
    const brokers = await server.start();
    console.log(`kafka: Apache Kafka ${KAFKA_VERSION} at ${brokers.join(',')}, pid ${server.pid}`);
    return {
      brokers,
      stop: async () => {
        await server.stop();
        forget();
      },
    };
  } catch (error) {
    onExit();
    forget();
    throw error;
  }
}

/** Whether a Docker engine answers on its socket, or at DOCKER_HOST, within 2 s. */
async function dockerAnswers(): Promise<boolean> {
  const host = process.env['DOCKER_HOST'] ?? 'unix:///var/run/docker.sock';
  const target = host.startsWith('unix://')
    ? { socketPath: host.slice('unix://'.length), path: '/_ping' }
    : { host: new URL(host).hostname, port: new URL(host).port, path: '/_ping' };
  return new Promise((resolve) => {
    const ping = request({ ...target, timeout: 2_000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    ping.on('timeout', () => ping.destroy(new Error('no answer')));
    ping.on('error', () => resolve(false));
    ping.end();
  });
}
