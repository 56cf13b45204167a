/**
 * The one admin client of a bus, for whoever asks the brokers something.
 *
 * Guards that each request ends in bounded time, that a client on which one failed is replaced by the next
 * request, and that it isn't closed under requests of others that are still on their way. Brokers' refusals
 * count too: kafkajs keeps the topics it was asked for, and fails all requests once one of them is deleted.
 */
import { Kafka, type Admin } from 'kafkajs';
import { unavailable, withDeadline } from './failures.ts';
import type { KafkaSettings } from './options.ts';

interface Client {
  readonly admin: Promise<Admin>;
  /** Those that are not answered yet. */
  requests: number;
}

export class SharedAdmin {
  readonly #settings: KafkaSettings;
  #client: Client | null = null;
  #closed = false;

  constructor(settings: KafkaSettings) {
    this.#settings = settings;
  }

  /** @throws SagaxError BUS_UNAVAILABLE, or what `request` throws if that is one */
  async ask<T>(request: (admin: Admin) => Promise<T>, limitMs: number): Promise<T> {
    if (this.#closed) throw unavailable('this bus has been closed');
    const client = (this.#client ??= { admin: this.#connect(), requests: 0 });
    const startedAt = performance.now();
    const { connections } = this.#settings;
    client.requests++;
    try {
      const answer = await withDeadline(client.admin.then(request), limitMs);
      connections.proved();
      return answer;
    } catch (error) {
      if (this.#client === client) this.#client = null;
      throw connections.failure(error, limitMs, startedAt);
    } finally {
      client.requests--;
      if (this.#client !== client && client.requests === 0) void disconnect(client);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    const client = this.#client;
    this.#client = null;
    if (client !== null) await disconnect(client);
  }

  async #connect(): Promise<Admin> {
    const admin = new Kafka(this.#settings.client).admin();
    await admin.connect();
    return admin;
  }
}

async function disconnect({ admin }: Client): Promise<void> {
  await admin.then((connected) => connected.disconnect()).catch(() => undefined);
}
