/**
 * `EventLog` and `ShardLeases` over several databases: each call goes to the one that has the shard.
 *
 * Guards that every append and its fence are one statement in one database (I1, I2), as with a single one, and
 * that a database which hangs does not hold up the renewal of leases in the others.
 */
import { SagaxError } from '../core/errors.ts';
import { partitionOf } from '../core/shards.ts';
import type { EventLog, ShardLeases } from '../ports.ts';
import { sleep } from './clock.ts';
import type { LogPart } from './log-part.ts';

/** The databases of a log, and who has what. */
export class Parts {
  readonly all: readonly LogPart[];
  readonly shardCount: number;

  constructor(all: readonly LogPart[], shardCount: number) {
    this.all = all;
    this.shardCount = shardCount;
  }

  ofShard(shard: number): LogPart {
    const part = this.all[shard % this.all.length];
    if (part === undefined) throw new SagaxError('INTERNAL', `There is no shard ${shard}.`);
    return part;
  }

  ofSaga(sagaId: string): LogPart {
    return this.ofShard(partitionOf(sagaId, this.shardCount));
  }
}

export function spreadEventLog(parts: Parts): EventLog {
  return {
    append: (batch) => parts.ofShard(batch.shard).ask(({ eventLog }) => eventLog.append(batch)),
    load: async (sagaIds, options) => {
      const split = Map.groupBy(sagaIds, (sagaId) => parts.ofSaga(sagaId));
      const found = await Promise.all(
        [...split].map(([part, mine]) => part.ask(({ eventLog }) => eventLog.load(mine, options))),
      );
      const [only] = found;
      return found.length === 1 && only !== undefined
        ? only
        : new Map(found.flatMap((streams) => [...streams]));
    },
    readOutbox: (shard, afterSeq, limit) =>
      parts.ofShard(shard).ask(({ eventLog }) => eventLog.readOutbox(shard, afterSeq, limit)),
    dueWakeups: (shard, until, limit) =>
      parts.ofShard(shard).ask(({ eventLog }) => eventLog.dueWakeups(shard, until, limit)),
  };
}

export function spreadShardLeases(
  parts: Parts,
  onTrouble: (what: string, error: unknown) => void,
): ShardLeases {
  const renewals = parts.all.map((part) => new Renewal(part));
  return {
    shardCount: parts.shardCount,
    acquire: async (shard, owner, ttlMs, options) =>
      parts
        .ofShard(shard)
        .ask(({ shardLeases }) => shardLeases.acquire(shard, owner, ttlMs, options)),
    renew: async (owner, held, ttlMs) => {
      const split = Map.groupBy(held, ({ shard }) => parts.ofShard(shard));
      const asked = renewals.filter(({ part }) => split.has(part));
      const answers = await Promise.allSettled(
        asked.map(async (renewal) => renewal.run(owner, split.get(renewal.part) ?? [], ttlMs)),
      );
      const failures = answers.flatMap((answer, index) =>
        answer.status === 'rejected' ? [{ at: asked[index]?.part, error: reasonOf(answer) }] : [],
      );
      const [first] = failures;
      if (first !== undefined && failures.length === asked.length) throw first.error;
      for (const { at, error } of failures) {
        onTrouble(`leases in the ${at?.label} could not be renewed; it is tried again`, error);
      }
      return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    },
    release: (shard, owner, epoch) =>
      parts.ofShard(shard).ask(({ shardLeases }) => shardLeases.release(shard, owner, epoch)),
  };
}

function reasonOf({ reason }: PromiseRejectedResult): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}

interface Held {
  shard: number;
  epoch: number;
}

/** Renewals in one database: one at a time, waited for only as long as the others' leases bear. */
class Renewal {
  readonly part: LogPart;
  #underWay: Promise<void> | null = null;
  /** Leases that are lost, heard of and not told yet. */
  #lost: Held[] = [];

  constructor(part: LogPart) {
    this.part = part;
  }

  /** @returns shards that are no longer the owner's at that epoch, also what an earlier late answer said */
  async run(owner: string, held: readonly Held[], ttlMs: number): Promise<number[]> {
    const isFresh = this.#underWay === null;
    this.#underWay ??= this.#renew(owner, held, ttlMs).finally(() => {
      this.#underWay = null;
    });
    const done = new AbortController();
    // A third of the lease is the pause between renewals: with this the next one still comes in time.
    const late = sleep(ttlMs / 4, done.signal);
    try {
      const isLate = await Promise.race([this.#underWay.then(() => false), late]);
      // What joined an earlier one was not renewed itself; the next call does it.
      if (isLate || !isFresh) {
        throw new SagaxError('DATABASE_UNAVAILABLE', 'The renewal before has had no answer yet.');
      }
    } finally {
      done.abort();
    }
    const told = this.#lost.splice(0);
    return held
      .filter((each) =>
        told.some(({ shard, epoch }) => shard === each.shard && epoch === each.epoch),
      )
      .map(({ shard }) => shard);
  }

  async #renew(owner: string, held: readonly Held[], ttlMs: number): Promise<void> {
    const lost = new Set(
      await this.part.ask(({ shardLeases }) => shardLeases.renew(owner, held, ttlMs)),
    );
    this.#lost.push(...held.filter(({ shard }) => lost.has(shard)));
  }
}
