/**
 * The second database of a log goes away for a moment, again and again, while processes die.
 *
 * Guards that an API process passes the points of looking for a database that is away, and that any process may die, or be
 * started, while a part of its log is away. Only the victims' way to the database is cut; the checker has its own.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { Door } from '../cluster.ts';
import type { Stage } from '../stage.ts';
import type { Beside } from './campaign.ts';

const EVERY_MS = 8_000;
/** Several looks long, and far below what a step of an order has. */
const AWAY_MS = 1_500;

export class Outages implements Beside {
  readonly env: { readonly [name: string]: string };
  readonly #door: Door;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #count = 0;

  private constructor(door: Door, urls: readonly string[], port: number) {
    this.#door = door;
    this.env = { SAGAX_LOG_DATABASES: urls.join(',') };
    this.#running = this.#run(port);
  }

  static async begin({ servers }: Stage): Promise<Outages> {
    const [first = '', second = ''] = servers.logUrls;
    const port = Number(new URL(second).port);
    const door = await Door.open(port);
    const through = Object.assign(new URL(second), { port: String(door.port) }).toString();
    return new Outages(door, [first, through], port);
  }

  get notes(): { [name: string]: number } {
    return { outages: this.#count };
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await this.#door.close();
  }

  judge(): [] {
    return [];
  }

  async #run(port: number): Promise<void> {
    const wait = (ms: number): Promise<void> =>
      pause(ms, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    for (;;) {
      await wait(EVERY_MS);
      if (this.#stop.signal.aborted) return;
      this.#door.shut();
      this.#count += 1;
      await wait(AWAY_MS);
      this.#door.lead(port);
    }
  }
}
