/**
 * `SagaReader` and `DeadLetters` over several databases: one saga from the one that has it, lists from all, merged.
 *
 * Guards that pages have neither gaps nor repeats: every database gives its newest rows below the cursor, and the
 * cursor is an id, unique over all of them. A database that does not answer is never passed over in silence.
 */
import { SagaxError } from '../core/errors.ts';
import type { DeadLetters, PartOptions, SagaReader, StoredDeadLetter } from '../ports-read.ts';
import type { PostgresPorts } from './index.ts';
import type { LogPart } from './log-part.ts';
import { shardsAt } from './membership.ts';
import { toId } from './rows.ts';
import type { Parts } from './spread-log.ts';

export function spreadReader(parts: Parts): SagaReader {
  return {
    get: (namespace, sagaId) =>
      parts.ofSaga(sagaId).ask(({ reader }) => reader.get(namespace, sagaId)),
    getMany: async (keys, options) => {
      const split = Map.groupBy(keys, ({ sagaId }) => parts.ofSaga(sagaId));
      const found = await fromEach(
        parts,
        [...split.keys()],
        ({ reader }, part) => reader.getMany(split.get(part) ?? []),
        options,
      );
      return found.flat();
    },
    list: async (query, options) => {
      const call = ({ reader }: PostgresPorts) => reader.list(query);
      const pages = await fromEach(parts, parts.all, call, options);
      return newestFirst(pages.flat(), ({ sagaId }) => sagaId).slice(0, Math.max(0, query.limit));
    },
    history: (sagaId, ...rest) =>
      parts.ofSaga(sagaId).ask(({ reader }) => reader.history(sagaId, ...rest)),
    isKept: (sagaId) => parts.ofSaga(sagaId).ask(({ reader }) => reader.isKept(sagaId)),
    shards: async (options) => {
      const call = ({ reader }: PostgresPorts) => reader.shards();
      const found = await fromEach(parts, parts.all, call, options);
      return found.flat().sort((a, b) => a.shard - b.shard);
    },
    ping: async (options) => {
      await fromEach(parts, parts.all, ({ reader }) => reader.ping(), options);
    },
  };
}

/**
 * Asks several databases at once.
 * @returns the answers, in the order of `asked`, without those of databases that `options.onMissing` was told of
 */
async function fromEach<T>(
  parts: Parts,
  asked: readonly LogPart[],
  call: (ports: PostgresPorts, part: LogPart) => Promise<T>,
  options: PartOptions | undefined,
): Promise<T[]> {
  const { onMissing } = options ?? {};
  if (onMissing === undefined) {
    return Promise.all(asked.map((part) => part.ask((ports) => call(ports, part))));
  }
  const answers = await Promise.allSettled(
    asked.map((part) => part.askInTime((ports) => call(ports, part))),
  );
  const there: T[] = [];
  const missing: { part: LogPart; error: Error }[] = [];
  answers.forEach((answer, index) => {
    const part = asked[index];
    if (answer.status === 'fulfilled') there.push(answer.value);
    else if (part !== undefined) missing.push({ part, error: failureOf(answer) });
  });
  const [first] = missing;
  if (first !== undefined && there.length === 0) throw first.error;
  for (const { part, error } of missing) {
    onMissing({
      part: part.place.index + 1,
      parts: part.place.count,
      shards: shardsAt(part.place, parts.shardCount),
      holds: (sagaId) => parts.ofSaga(sagaId) === part,
      error,
    });
  }
  return there;
}

/** @throws what is no failure of reaching the database: a defect must not pass for a missing part */
function failureOf({ reason }: PromiseRejectedResult): Error {
  if (reason instanceof SagaxError && reason.kind !== 'bug') return reason;
  throw reason;
}

function newestFirst<T>(rows: T[], idOf: (row: T) => string): T[] {
  return rows
    .map((row) => ({ row, id: BigInt(idOf(row)) }))
    .sort((a, b) => (a.id < b.id ? 1 : a.id > b.id ? -1 : 0))
    .map(({ row }) => row);
}

/**
 * A letter's id outside is `id · databases + index`: unique over all of them, and in order of time as the ids of
 * each are. It is still below 2^63: 41 bits of ms, 14 of a number, and the number of databases.
 */
export function spreadDeadLetters(parts: Parts): DeadLetters {
  const count = BigInt(parts.all.length);
  const outside = (letter: StoredDeadLetter, { place }: LogPart): StoredDeadLetter => ({
    ...letter,
    id: String(BigInt(letter.id) * count + BigInt(place.index)),
  });
  const inside = (id: string): { part: LogPart; id: string } | null => {
    if (toId(id) === null) return null;
    const part = parts.all[Number(BigInt(id) % count)];
    return part === undefined ? null : { part, id: String(BigInt(id) / count) };
  };
  /** The smallest id of this database whose letter is not below `beforeId`. */
  const bound = (beforeId: string, { place }: LogPart): string =>
    String((BigInt(beforeId) - BigInt(place.index) + count - 1n) / count);
  return {
    list: async ({ beforeId, ...query }, options) => {
      if (beforeId !== undefined && toId(beforeId) === null) return [];
      const call = async (ports: PostgresPorts, part: LogPart): Promise<StoredDeadLetter[]> => {
        const before = beforeId === undefined ? {} : { beforeId: bound(beforeId, part) };
        const letters = await ports.deadLetters.list({ ...query, ...before });
        return letters.map((letter) => outside(letter, part));
      };
      const pages = await fromEach(parts, parts.all, call, options);
      return newestFirst(pages.flat(), ({ id }) => id).slice(0, Math.max(0, query.limit));
    },
    get: async (id) => {
      const place = inside(id);
      if (place === null) return null;
      const letter = await place.part.ask(({ deadLetters }) => deadLetters.get(place.id));
      return letter === null ? null : outside(letter, place.part);
    },
    markRedriven: async (id) => {
      const place = inside(id);
      if (place === null) return false;
      return place.part.ask(({ deadLetters }) => deadLetters.markRedriven(place.id));
    },
  };
}
