/** Checks of the log itself: I1, I2, I5, I11, I13. */
import type { LoggedEvent } from '../../../engine/core/events.ts';
import { canonicalJson } from '../../../engine/core/json.ts';
import type { Evidence, Violation } from '../evidence.ts';

/** I1: stream versions and shard sequences are 1..n without a gap, and what was shown of them stands. */
export function checkI1(evidence: Evidence): Violation[] {
  return [...gaps(evidence), ...vanished(evidence)];
}

/** A stream only grows: what a reader was shown once is what the log has. */
function vanished({ streams, shown }: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const { sagaId, afterVersion, events } of shown) {
    const stream = streams.get(sagaId) ?? [];
    events.forEach((event, index) => {
      const logged = stream[afterVersion + index];
      if (logged !== undefined && canonicalJson(logged) === event) return;
      const what = `a reader was shown ${event} at version ${afterVersion + index + 1}, the log has it no more`;
      found.push({ invariant: 'I1', sagaId, what });
    });
  }
  return found;
}

function gaps({ shardEvents, streams, shards }: Evidence): Violation[] {
  const found: Violation[] = [];
  const add = (sagaId: string | null, what: string): void =>
    void found.push({ invariant: 'I1', sagaId, what });
  shardEvents.forEach((events, shard) => {
    events.forEach((event, index) => {
      if (event.shardSeq !== index + 1 || event.shard !== shard) {
        add(event.sagaId, `shard ${shard} has shardSeq ${event.shardSeq} in place ${index + 1}`);
      }
    });
    const nextSeq = shards[shard]?.nextSeq;
    if (nextSeq !== events.length + 1) {
      add(null, `shard ${shard} has ${events.length} events and goes on at ${nextSeq}`);
    }
  });
  for (const [sagaId, events] of streams) {
    events.forEach((event, index) => {
      if (event.streamVersion !== index + 1) {
        add(sagaId, `stream version ${event.streamVersion} stands in place ${index + 1}`);
      }
      const before = events[index - 1];
      if (before !== undefined && before.shardSeq >= event.shardSeq) {
        add(
          sagaId,
          `stream version ${event.streamVersion} has a smaller shardSeq than its forerunner`,
        );
      }
    });
  }
  return found;
}

/** I2: an append has the shard's current epoch; epochs never go down along a stream. */
export function checkI2({ entries, streams }: Evidence): Violation[] {
  const found: Violation[] = [];
  const current = new Map<number, number>();
  for (const entry of entries) {
    if (entry.kind === 'acquired') {
      const before = current.get(entry.shard) ?? 0;
      if (entry.epoch <= before) {
        const what = `shard ${entry.shard} was taken over with epoch ${entry.epoch} after ${before}`;
        found.push({ invariant: 'I2', sagaId: null, what });
      }
      current.set(entry.shard, entry.epoch);
      continue;
    }
    for (const { sagaId, streamVersion, epoch } of entry.events) {
      if (epoch === current.get(entry.shard)) continue;
      const what = `version ${streamVersion} was appended under epoch ${epoch} while shard ${entry.shard} was at ${current.get(entry.shard)}`;
      found.push({ invariant: 'I2', sagaId, what });
    }
  }
  for (const [sagaId, events] of streams) {
    events.forEach((event, index) => {
      const before = events[index - 1];
      if (before === undefined || before.epoch <= event.epoch) return;
      const what = `the epoch goes down from ${before.epoch} to ${event.epoch} at version ${event.streamVersion}`;
      found.push({ invariant: 'I2', sagaId, what });
    });
  }
  return found;
}

/** I5: nothing follows a terminal event. */
export function checkI5({ streams }: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streams) {
    const end = events.findIndex(({ event }) => isTerminal(event.type));
    const next = end < 0 ? undefined : events[end + 1];
    if (next !== undefined) {
      const what = `${next.event.type} follows ${events[end]?.event.type} at version ${next.streamVersion}`;
      found.push({ invariant: 'I5', sagaId, what });
    }
  }
  return found;
}

function isTerminal(type: string): boolean {
  return type === 'SagaCompleted' || type === 'SagaCompensated';
}

/** I11: a timer never fires early (by the database's clock), fires once, and not after it was cleared. */
export function checkI11(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const appendedAt = new Map<string, number>();
  for (const entry of evidence.entries) {
    if (entry.kind !== 'appended') continue;
    for (const { shardSeq } of entry.events) appendedAt.set(`${entry.shard}/${shardSeq}`, entry.at);
  }
  for (const [sagaId, events] of evidence.streams) {
    const timers = new TimerBook();
    for (const logged of events) {
      const at = appendedAt.get(`${logged.shard}/${logged.shardSeq}`) ?? logged.at;
      const what = timers.follow(logged, at);
      if (what !== null) found.push({ invariant: 'I11', sagaId, what });
    }
  }
  return found;
}

/** What is set to fall due, as the stream says. */
class TimerBook {
  readonly #timers = new Map<string, number>();
  readonly #retries = new Map<string, number>();
  readonly #deadlines = new Map<string, number>();

  /** @returns what is wrong with this event, or null */
  follow({ event, streamVersion }: LoggedEvent, at: number): string | null {
    switch (event.type) {
      case 'TimerSet':
        this.#timers.set(event.timerId, event.dueAt);
        return null;
      case 'TimerCleared':
        this.#timers.delete(event.timerId);
        return null;
      case 'TimerFired':
        return take(this.#timers, event.timerId, `timer ${event.timerId}`, at, streamVersion);
      case 'RetryScheduled':
        this.#retries.set(`${event.commandId}#${event.attempt}`, event.dueAt);
        return null;
      case 'RetryDue':
        return take(
          this.#retries,
          `${event.commandId}#${event.attempt}`,
          `attempt ${event.attempt} of ${event.commandId}`,
          at,
          streamVersion,
        );
      case 'StepRequested':
      case 'CommandRetried':
        if (event.deadlineAt !== undefined) this.#deadlines.set(event.commandId, event.deadlineAt);
        return null;
      case 'StepTimedOut':
        return take(
          this.#deadlines,
          event.commandId,
          `the deadline of ${event.commandId}`,
          at,
          streamVersion,
        );
      default:
        return null;
    }
  }
}

function take(
  book: Map<string, number>,
  key: string,
  name: string,
  at: number,
  version: number,
): string | null {
  const dueAt = book.get(key);
  book.delete(key);
  if (dueAt === undefined) return `${name} fired at version ${version} though it was not set`;
  return at < dueAt ? `${name} fired ${dueAt - at} ms early, at version ${version}` : null;
}

/** I13: ids are unique across processes and increase within one. */
export function checkI13({ ids }: Evidence): Violation[] {
  const found: Violation[] = [];
  const seen = new Map<string, string>();
  const last = new Map<string, bigint>();
  for (const { process, id } of ids) {
    const other = seen.get(id);
    if (other !== undefined) {
      found.push({
        invariant: 'I13',
        sagaId: id,
        what: `${process} made an id that ${other} had made`,
      });
    }
    seen.set(id, process);
    const before = last.get(process);
    if (before !== undefined && BigInt(id) <= before) {
      found.push({ invariant: 'I13', sagaId: id, what: `${process} made ${id} after ${before}` });
    }
    last.set(process, BigInt(id));
  }
  return found;
}
