/**
 * Snowflake ids: 41 bits of milliseconds since SNOWFLAKE_EPOCH_MS, 10 of node id, 12 of sequence.
 *
 * Guards I13: unique across nodes (the node id is leased), increasing within one. Pure: the clock, the
 * node id and the lease's deadline come in. An id is a decimal string everywhere outside this file,
 * since JSON numbers lose digits above 2^53. The order of ids is never the order of commits.
 */
import { SagaxError } from './errors.ts';

/** 2025-01-01T00:00:00Z; 41 bits last until 2094. */
export const SNOWFLAKE_EPOCH_MS = 1_735_689_600_000;
export const MAX_NODE_ID = 1023;
const SEQUENCE_PER_MS = 4096;
/** How far the logical clock may run ahead of the wall clock before generation is refused. */
export const MAX_CLOCK_LEAD_MS = 5_000;

export interface SnowflakeSource {
  nodeId: number;
  /** Wall clock, ms since the Unix epoch. */
  now: () => number;
  /** Whether the lease on the node id still holds, by the monotonic clock, with its safety margin. */
  leaseHolds: () => boolean;
  /** No id may be made with a time at or below this one (the id's previous holder may have used it). */
  startAboveMs: number;
}

export class SnowflakeGenerator {
  readonly #source: SnowflakeSource;
  #lastMs: number;
  #sequence = SEQUENCE_PER_MS;

  constructor(source: SnowflakeSource) {
    if (!Number.isInteger(source.nodeId) || source.nodeId < 0 || source.nodeId > MAX_NODE_ID) {
      throw new SagaxError('INTERNAL', `Node id ${source.nodeId} is outside 0..${MAX_NODE_ID}.`);
    }
    this.#source = source;
    this.#lastMs = Math.max(source.startAboveMs, SNOWFLAKE_EPOCH_MS);
  }

  /** The highest time that any id of this generator carries; kept as the node id's high-water time. */
  get lastMs(): number {
    return this.#lastMs;
  }

  /**
   * @returns the next id, greater than all before it.
   * @throws SagaxError NODE_LEASE_LOST when the lease is over; CLOCK_BACKWARDS when the wall clock is more
   *   than MAX_CLOCK_LEAD_MS behind the ids made so far.
   */
  next(): string {
    if (!this.#source.leaseHolds()) {
      throw new SagaxError(
        'NODE_LEASE_LOST',
        'The lease on this Snowflake node id has run out; take a new one.',
      );
    }
    const now = Math.floor(this.#source.now());
    let ms = this.#lastMs;
    let sequence = this.#sequence;
    if (now > ms) {
      ms = now;
      sequence = 0;
    } else if (sequence >= SEQUENCE_PER_MS) {
      // The clock stands or went back, and this millisecond is used up: go on along a logical clock.
      ms += 1;
      sequence = 0;
    }
    if (ms - now > MAX_CLOCK_LEAD_MS) {
      throw new SagaxError(
        'CLOCK_BACKWARDS',
        `The wall clock is ${ms - now} ms behind the last id; ids are refused beyond ${MAX_CLOCK_LEAD_MS} ms. Check NTP on this host.`,
      );
    }
    this.#lastMs = ms;
    this.#sequence = sequence + 1;
    return composeSnowflake(ms, this.#source.nodeId, sequence);
  }
}

export function composeSnowflake(ms: number, nodeId: number, sequence: number): string {
  const id = (BigInt(ms - SNOWFLAKE_EPOCH_MS) << 22n) | BigInt((nodeId << 12) | sequence);
  return id.toString();
}

/** The parts of an id. */
export function parseSnowflake(id: string): { ms: number; nodeId: number; sequence: number } {
  const value = BigInt(id);
  const low = Number(value & 0x3fffffn);
  return {
    ms: Number(value >> 22n) + SNOWFLAKE_EPOCH_MS,
    nodeId: low >> 12,
    sequence: low & 0xfff,
  };
}
