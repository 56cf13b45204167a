/**
 * Tells Kafka's coordinator that the members of a group are gone.
 *
 * Guards the campaign's length and nothing else: a member that was killed keeps its partitions until its session
 * has timed out (10 s), which the campaign of random kills waits for. Here the next life gets them at once.
 */
import { Admin } from '@platformatic/kafka';

export class Groups {
  readonly #admin: Admin;

  constructor(brokers: readonly string[]) {
    this.#admin = new Admin({
      clientId: 'sagax-chaos-crash',
      bootstrapBrokers: [...brokers],
      retries: 3,
    });
  }

  /** Harmless for a group without members. */
  async empty(names: readonly string[]): Promise<void> {
    for (const groupId of names) await this.#admin.removeMembersFromConsumerGroup({ groupId });
  }

  async close(): Promise<void> {
    await this.#admin.close();
  }
}
