/**
 * A process's source of Snowflake ids: takes a node id, keeps its lease, and stops when it may be lost.
 *
 * Guards I13 against everything a process can meet: a pause of any length (the deadline is checked by the
 * monotonic clock at each id), a lost database, a clock that goes back. In doubt it refuses
 * (NODE_LEASE_LOST), and takes a new node id in the background.
 */
import { SagaxError } from '../core/errors.ts';
import { SnowflakeGenerator } from '../core/ids.ts';
import type { Clock, NodeIdLeases } from '../ports.ts';
import { silentTelemetry, type Logger } from './telemetry.ts';

export interface Snowflakes {
  /** @returns the next id, in decimal digits. @throws SagaxError NODE_LEASE_LOST, CLOCK_BACKWARDS: try again later */
  next(): string;
  /** Stops, and gives the node id back. */
  close(): Promise<void>;
}

/** Part of the lease's time that is not used: covers the renewal's way back and unlike speeds of two clocks. */
const MARGIN_PART = 0.2;
/** A renewal is tried this many times within a lease, so that one lost answer does not end it. */
const RENEWALS_PER_LEASE = 3;

interface Held {
  nodeId: number;
  epoch: number;
  generator: SnowflakeGenerator;
  /** By the monotonic clock: no id is made from here on. */
  deadline_ms: number;
  /** By the database's clock: no id carries a time at or above it, the next holder may use those. */
  ceiling_ms: number;
}

/**
 * @param owner shown to operators; need not be unique
 * @param ttlMs length of the lease; a node id of a dead process is free again after it
 * @param log told of each renewal that fails
 * @throws SagaxError NODE_IDS_EXHAUSTED, DATABASE_UNAVAILABLE when the first node id can't be had
 */
export async function createSnowflakes(
  nodeIds: NodeIdLeases,
  clock: Clock,
  owner: string,
  ttlMs: number,
  log: Pick<Logger, 'warn'> = silentTelemetry.log,
): Promise<Snowflakes> {
  const stop = new AbortController();
  let held: Held | null = await acquire(nodeIds, clock, owner, ttlMs);
  /** Why the last renewal failed. */
  let failure: unknown;

  const keep = async (): Promise<void> => {
    // One step of this loop a third of a lease; it ends with `close`.
    while (await clock.sleep(ttlMs / RENEWALS_PER_LEASE, stop.signal)) {
      try {
        if (held !== null && !(await renew(nodeIds, clock, held, ttlMs))) held = null;
        held ??= await acquire(nodeIds, clock, owner, ttlMs);
        failure = undefined;
      } catch (error) {
        // Whatever it is: the deadline goes on running, and the next step tries again.
        failure = error;
        log.warn(
          { owner, err: error },
          'the lease on the Snowflake node id could not be renewed; it is tried again',
        );
      }
    }
  };
  const keeping = keep();

  return {
    next: () => {
      if (held === null || stop.signal.aborted) {
        throw new SagaxError(
          'NODE_LEASE_LOST',
          'No Snowflake node id is leased now, so no id can be made; it is being taken anew. Try again in a moment.',
          { cause: failure },
        );
      }
      return held.generator.next();
    },
    close: async () => {
      stop.abort();
      await keeping;
      const last = held;
      held = null;
      if (last !== null)
        await nodeIds
          .release(last.nodeId, last.epoch, last.generator.lastMs)
          .catch(() => undefined);
    },
  };
}

async function acquire(
  nodeIds: NodeIdLeases,
  clock: Clock,
  owner: string,
  ttlMs: number,
): Promise<Held> {
  // Both readings come before the call: what the answer's way back takes is lost time, never won time.
  const [monotonic_ms, now_ms] = [clock.monotonic(), clock.now()];
  const { nodeId, epoch, startAboveMs } = await nodeIds.acquire(owner, ttlMs);
  const held: Held = {
    nodeId,
    epoch,
    ...limits(monotonic_ms, now_ms, ttlMs),
    generator: null as never,
  };
  held.generator = new SnowflakeGenerator({
    nodeId,
    startAboveMs,
    now: () => clock.now(),
    leaseHolds: () => {
      // The time of the next id, not of the last one: a clock that leaps ahead may carry it past the ceiling.
      const next_ms = Math.max(held.generator.lastMs + 1, clock.now());
      const isBelow = next_ms < Math.max(held.ceiling_ms, startAboveMs + 2);
      return isBelow && clock.monotonic() < held.deadline_ms;
    },
  });
  return held;
}

async function renew(
  nodeIds: NodeIdLeases,
  clock: Clock,
  held: Held,
  ttlMs: number,
): Promise<boolean> {
  const [monotonic_ms, now_ms] = [clock.monotonic(), clock.now()];
  if (!(await nodeIds.renew(held.nodeId, held.epoch, ttlMs))) return false;
  Object.assign(held, limits(monotonic_ms, now_ms, ttlMs));
  return true;
}

function limits(
  monotonic_ms: number,
  now_ms: number,
  ttl_ms: number,
): { deadline_ms: number; ceiling_ms: number } {
  const usable_ms = ttl_ms * (1 - MARGIN_PART);
  return { deadline_ms: monotonic_ms + usable_ms, ceiling_ms: now_ms + usable_ms };
}
