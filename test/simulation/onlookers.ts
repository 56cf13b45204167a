/**
 * Those who look: clients that read summaries and histories, and an operator who redrives dead letters, over the
 * same faulty ports as everything else; and those who ask for what makes no sense.
 *
 * Guards that what was shown of a stream is known, so that the checker can tell whether it stayed true (I1), and
 * that refusals happen: what is refused must be parked, not lost (I4).
 */
import { SagaxError } from '../../engine/core/errors.ts';
import { canonicalJson } from '../../engine/core/json.ts';
import type { StoredDeadLetter } from '../../engine/ports-read.ts';
import type { ClientRole, Setting } from './processes.ts';

/** What a reader was shown of a stream: events behind `afterVersion`, each as canonical JSON. */
export interface Shown {
  sagaId: string;
  afterVersion: number;
  events: readonly string[];
}

/** Letters that one look takes in. */
const LETTERS = 5;
const EVENTS = 50;

export class Onlookers {
  readonly shown: Shown[] = [];
  readonly #setting: Setting;
  readonly #clients: readonly ClientRole[];

  constructor(setting: Setting, clients: readonly ClientRole[]) {
    this.#setting = setting;
    this.#clients = clients;
  }

  /** Looks now and then, as long as faults happen. */
  begin(until: () => boolean): void {
    const { world } = this.#setting;
    world.schedule(world.random.int(500, 4_000), () => {
      if (until()) return;
      this.begin(until);
      const client = world.random.pick(this.#clients);
      void this.#attempt(() =>
        world.random.chance(0.6) ? this.#look(client) : this.#redrive(client),
      );
    });
  }

  /** A reader that gets an error goes away; the next one comes by itself. */
  async #attempt(run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      if (!(error instanceof SagaxError)) throw error;
      this.#setting.world.count(`code ${error.code}`);
    }
  }

  async #look({ ports }: ClientRole): Promise<void> {
    const { reader, bus } = ports;
    await reader.ping();
    await bus.ping();
    const sagas = await reader.list({ namespace: 'default', limit: 3 });
    await reader.shards();
    await reader.getMany(sagas.map(({ sagaId }) => ({ namespace: 'default', sagaId })));
    for (const { sagaId, streamVersion } of sagas) {
      const summary = await reader.get('default', sagaId);
      const afterVersion = this.#setting.world.random.int(0, streamVersion);
      const events = await reader.history(sagaId, afterVersion, EVENTS);
      this.shown.push({
        sagaId,
        afterVersion,
        events: events.map((event) => canonicalJson(event)),
      });
      if (summary !== null && summary.streamVersion < streamVersion) {
        this.#setting.defect(`saga ${sagaId} was shown at version ${streamVersion}, then earlier`);
      }
    }
  }

  async #redrive({ ports }: ClientRole): Promise<void> {
    const { deadLetters, bus } = ports;
    const letters = await deadLetters.list({ limit: LETTERS });
    const one = letters.find(({ key, value }) => key !== null && value !== null);
    const letter = one === undefined ? null : await deadLetters.get(one.id);
    if (letter === null) return;
    await bus.publish([messageOf(letter)]);
    const isFirst = await deadLetters.markRedriven(letter.id);
    this.#setting.world.count(isFirst ? 'redriven' : 'redriven before');
  }
}

function messageOf({ topic, partition, key, headers, value }: StoredDeadLetter): {
  topic: string;
  partition: number;
  key: string;
  headers: StoredDeadLetter['headers'];
  value: string;
} {
  return { topic, partition, key: key ?? '', headers, value: value ?? '' };
}
