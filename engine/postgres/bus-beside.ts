/**
 * The Postgres bus for whoever commits in its database: what is to be said goes out with that commit.
 *
 * Guards that only what surely can go that way does (I10): all messages or none, within the limits of the bus and to
 * partitions that are there. The rest is left to who knows how to wait and how to fail.
 */
import type { BusMessage, CommitShare } from '../ports.ts';
import { handOn } from './bus-neighbours.ts';
import { numbered, type Committed, type FirstOffset, type Said } from './bus-offsets.ts';
import { bytesOf, MAX_MESSAGE_BYTES } from './bus-publisher.ts';
import { publishQuery } from './bus-statements.ts';
import type { BusTopics } from './bus-topics.ts';

/** Messages of one commit, and their bytes: more would hold the partitions for too long. */
const MAX_MESSAGES = 500;
const MAX_BYTES = 4_000_000;

export class BusBeside implements CommitShare {
  readonly allowed = `SELECT has_table_privilege('sagax.bus_partitions', 'SELECT')
    AND has_table_privilege('sagax.bus_partitions', 'UPDATE') AND has_table_privilege('sagax.bus_messages', 'INSERT') AS allowed`;
  readonly #topics: BusTopics;
  readonly #url: string;

  /** @param url of the database, as its readers were given it */
  constructor(topics: BusTopics, url: string) {
    this.#topics = topics;
    this.#url = url;
  }

  /** @returns the messages with their partitions; null when they are to go another way */
  async place(messages: readonly BusMessage[]): Promise<readonly Said[] | null> {
    if (messages.length > MAX_MESSAGES) return null;
    let left = MAX_BYTES;
    for (const message of messages) {
      const bytes = bytesOf(message);
      left -= bytes;
      // Texts may go to the server as lines.
      if (bytes > MAX_MESSAGE_BYTES || left < 0 || message.value.includes('\n')) return null;
    }
    const said: Said[] = [];
    for (const message of messages) {
      const id = await this.#topics.find(message.topic, message.partition);
      if (id === null) return null;
      said.push({ id, message });
    }
    return said;
  }

  async statement(messages: readonly BusMessage[]): ReturnType<CommitShare['statement']> {
    const said = await this.place(messages);
    if (said === null || said.length === 0) return null;
    return {
      query: publishQuery(said),
      committed: (rows) => this.committed(numbered(said, rows as FirstOffset[])),
    };
  }

  /** Called after the commit. */
  committed(messages: readonly Committed[]): void {
    handOn(this.#url, messages);
  }
}
