/**
 * Ids for new sagas: those that start at about the same time are given ids of one shard.
 *
 * Guards that messages come in larger batches. Sagas of one age are at the same step, so their commands and
 * replies travel together; spread over all partitions, each partition would get a batch of one, and a broker's
 * cost is by the batch. The mapping from id to shard stays what it is: of the ids that the generator makes,
 * the first one that falls into the shard whose turn it is, is taken, and the others are never used (I13 holds).
 * The turn goes round, so that over a second all shards get their share.
 */
import { partitionOf } from './shards.ts';

/** How long a shard has its turn, in ms, and for how many sagas at most: a burst is spread over all shards. */
const TURN_MS = 50;
const TURN_SAGAS = 64;
/** With more shards than these, as many of them have their turn together as keeps the search for an id short. */
const MAX_TURNS = 16;
/** Ids tried for a saga, as a multiple of the turns: then the last one is taken, wherever it falls. */
const TRIES_PER_TURN = 4;

export interface IdSource {
  /** @throws SagaxError NODE_LEASE_LOST, CLOCK_BACKWARDS */
  next(): string;
}

export class StartIds implements IdSource {
  readonly #ids: IdSource;
  readonly #shards: number;
  readonly #turns: number;
  readonly #monotonic: () => number;
  #turn = 0;
  #taken = 0;
  #turnEnds_ms = 0;

  /** @param monotonic ms that only go forward */
  constructor(ids: IdSource, shards: number, monotonic: () => number) {
    this.#ids = ids;
    this.#shards = shards;
    this.#turns = Math.min(shards, MAX_TURNS);
    this.#monotonic = monotonic;
  }

  next(): string {
    this.#maybeTurn();
    let id = this.#ids.next();
    for (let tried = 1; tried < TRIES_PER_TURN * this.#turns; tried++) {
      if (partitionOf(id, this.#shards) % this.#turns === this.#turn) break;
      id = this.#ids.next();
    }
    this.#taken += 1;
    return id;
  }

  #maybeTurn(): void {
    const now_ms = this.#monotonic();
    if (now_ms < this.#turnEnds_ms && this.#taken < TURN_SAGAS) return;
    this.#turn = (this.#turn + 1) % this.#turns;
    this.#taken = 0;
    this.#turnEnds_ms = now_ms + TURN_MS;
  }
}
