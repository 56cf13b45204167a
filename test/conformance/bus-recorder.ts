/** Records what a subscription delivers, and lets a test await what it wants to see: no sleeps. */
import type { BusBatch, ReceivedMessage, SubscribeOptions } from '../../engine/ports.ts';

type Answer = void | { resumeAt: bigint };

export class BusRecorder {
  readonly messages: ReceivedMessage[] = [];
  readonly batches: BusBatch[] = [];
  /** `topic/partition` in the order of the calls, with "+" or "-" before it. */
  readonly moves: string[] = [];
  readonly #waiters = new Set<() => void>();
  #respond: (batch: BusBatch) => Promise<Answer>;

  constructor(respond: (batch: BusBatch) => Promise<Answer> = () => Promise.resolve()) {
    this.#respond = respond;
  }

  /** Options for `subscribe`; what is given in `more` is called as well. */
  options(more: Omit<SubscribeOptions, 'onBatch'>): SubscribeOptions {
    return {
      ...more,
      onAssigned: async (topic, partition) => {
        const start = (await more.onAssigned?.(topic, partition)) ?? null;
        this.#move(`+${topic}/${partition}`);
        return start;
      },
      onRevoked: async (topic, partition) => {
        await more.onRevoked?.(topic, partition);
        this.#move(`-${topic}/${partition}`);
      },
      onBatch: (batch) => {
        this.batches.push(batch);
        this.messages.push(...batch.messages);
        this.#changed();
        return this.#respond(batch);
      },
    };
  }

  get values(): (string | null)[] {
    return this.messages.map(({ value }) => value);
  }

  valuesOf(partition: number): (string | null)[] {
    return this.messages.filter((m) => m.partition === partition).map(({ value }) => value);
  }

  /** Resolves when `holds` is true; looked at after every delivery and every move. */
  until(holds: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (!holds()) return;
        this.#waiters.delete(look);
        resolve();
      };
      this.#waiters.add(look);
      look();
    });
  }

  #move(move: string): void {
    this.moves.push(move);
    this.#changed();
  }

  #changed(): void {
    for (const look of [...this.#waiters]) look();
  }
}
