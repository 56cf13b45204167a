/** Checks of the log itself: I1, I2, I5, I11. */
import {
  isTerminal,
  numberIn,
  streamsOf,
  textIn,
  type EpochRow,
  type EventBody,
  type EventRow,
  type Evidence,
  type Violation,
} from './evidence.ts';

/** I1: stream versions and shard sequences are 1..n without a gap, and positions never go back. */
export function checkI1(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const add = (sagaId: string | null, what: string): void =>
    void found.push({ invariant: 'I1', sagaId, what });
  for (const [sagaId, events] of streamsOf(evidence)) {
    events.forEach((event, index) => {
      if (event.streamVersion !== index + 1)
        add(sagaId, `stream version ${event.streamVersion} stands in place ${index + 1}`);
      const before = events[index - 1];
      if (before !== undefined && before.shardSeq >= event.shardSeq)
        add(sagaId, `version ${event.streamVersion} has a shard_seq below its forerunner's`);
      if (before !== undefined && before.shard !== event.shard)
        add(sagaId, `version ${event.streamVersion} is in another shard than its forerunner`);
      if (event.event.type !== event.type)
        add(sagaId, `version ${event.streamVersion} is called ${event.type} in its column only`);
    });
  }
  const shards = byShard(evidence.events);
  for (const { shard, nextSeq } of evidence.shards) {
    const events = shards.get(shard) ?? [];
    events.forEach(({ sagaId, shardSeq }, index) => {
      if (shardSeq !== index + 1)
        add(sagaId, `shard ${shard} has shard_seq ${shardSeq} in place ${index + 1}`);
    });
    if (nextSeq !== events.length + 1)
      add(null, `shard ${shard} has ${events.length} events and goes on at ${nextSeq}`);
    shards.delete(shard);
  }
  for (const shard of shards.keys()) add(null, `there are events of shard ${shard}, which is none`);
  for (const { shard, what } of evidence.regressions)
    add(null, `the position of shard ${shard} went back: ${what}`);
  return found;
}

function byShard(events: readonly EventRow[]): Map<number, EventRow[]> {
  const shards = new Map<number, EventRow[]>();
  for (const event of events) {
    const list = shards.get(event.shard);
    if (list === undefined) shards.set(event.shard, [event]);
    else list.push(event);
  }
  for (const list of shards.values()) list.sort((a, b) => a.shardSeq - b.shardSeq);
  return shards;
}

/**
 * I2: what an epoch wrote lies between its take-over and the next one. A write outside of that is a
 * stale one: its writer had been replaced. Epochs only go up, by takeover and along a stream.
 */
export function checkI2(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const epochs = new Map<number, EpochRow[]>();
  for (const row of evidence.epochs) epochs.set(row.shard, [...(epochs.get(row.shard) ?? []), row]);
  for (const [shard, list] of epochs) {
    list.sort((a, b) => a.epoch - b.epoch);
    list.forEach(({ epoch, fromSeq }, index) => {
      const before = list[index - 1];
      if (before === undefined) return;
      const what =
        before.epoch === epoch
          ? `epoch ${epoch} of shard ${shard} was given out twice`
          : before.fromSeq > fromSeq
            ? `epoch ${epoch} of shard ${shard} begins at ${fromSeq}, before its forerunner's ${before.fromSeq}`
            : null;
      if (what !== null) found.push({ invariant: 'I2', sagaId: null, what });
    });
    const current = evidence.shards.find((row) => row.shard === shard)?.epoch;
    const last = list.at(-1)?.epoch;
    if (current !== last) {
      const what = `shard ${shard} is at epoch ${current}, the last take-over was ${last}`;
      found.push({ invariant: 'I2', sagaId: null, what });
    }
  }
  for (const { sagaId, shard, shardSeq, epoch, streamVersion } of evidence.events) {
    const holder = (epochs.get(shard) ?? []).findLast(({ fromSeq }) => fromSeq <= shardSeq);
    if (holder?.epoch === epoch) continue;
    const what = `stale write: version ${streamVersion} (shard ${shard}, shard_seq ${shardSeq}) was written under epoch ${epoch} while the shard was at ${holder?.epoch}`;
    found.push({ invariant: 'I2', sagaId, what });
  }
  for (const [sagaId, events] of streamsOf(evidence)) {
    events.forEach(({ epoch, streamVersion }, index) => {
      const before = events[index - 1];
      if (before === undefined || before.epoch <= epoch) return;
      const what = `the epoch goes down from ${before.epoch} to ${epoch} at version ${streamVersion}`;
      found.push({ invariant: 'I2', sagaId, what });
    });
  }
  return found;
}

/** I5: a stream begins once, ends once, and nothing follows its end. */
export function checkI5(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streamsOf(evidence)) {
    const end = events.findIndex(({ type }) => isTerminal(type));
    const next = end < 0 ? undefined : events[end + 1];
    if (next === undefined) continue;
    const what = `${next.type} follows ${events[end]?.type} at version ${next.streamVersion}`;
    found.push({ invariant: 'I5', sagaId, what });
  }
  return found;
}

/** I11: by the database's clock a timer never fires early; it fires once, and not after it was cleared. */
export function checkI11(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streamsOf(evidence)) {
    const timers = new TimerBook();
    for (const row of events) {
      const what = timers.follow(row.event, row);
      if (what !== null) found.push({ invariant: 'I11', sagaId, what });
    }
  }
  return found;
}

/** What is set to fall due, as a stream says. */
class TimerBook {
  readonly #due = new Map<string, number>();

  /** @returns what is wrong with this event, or null */
  follow(event: EventBody, row: EventRow): string | null {
    switch (event.type) {
      case 'TimerSet':
        this.#due.set(`timer ${textIn(event, 'timerId')}`, numberIn(event, 'dueAt'));
        return null;
      case 'TimerCleared':
        this.#due.delete(`timer ${textIn(event, 'timerId')}`);
        return null;
      case 'TimerFired':
        return this.#take(`timer ${textIn(event, 'timerId')}`, row);
      case 'RetryScheduled':
        this.#due.set(attemptOf(event), numberIn(event, 'dueAt'));
        return null;
      case 'RetryDue':
        return this.#take(attemptOf(event), row);
      case 'StepRequested':
      case 'CommandRetried':
        if (event['deadlineAt'] !== undefined)
          this.#due.set(
            `the deadline of ${textIn(event, 'commandId')}`,
            numberIn(event, 'deadlineAt'),
          );
        return null;
      case 'StepTimedOut':
        return this.#take(`the deadline of ${textIn(event, 'commandId')}`, row);
      default:
        return null;
    }
  }

  #take(name: string, { streamVersion, witnessedAtMs }: EventRow): string | null {
    const dueAt = this.#due.get(name);
    this.#due.delete(name);
    if (dueAt === undefined) return `${name} fired at version ${streamVersion}, but was not set`;
    if (witnessedAtMs >= Math.floor(dueAt)) return null;
    return `${name} fired ${dueAt - witnessedAtMs} ms early, at version ${streamVersion}`;
  }
}

function attemptOf(event: EventBody): string {
  return `attempt ${numberIn(event, 'attempt')} of ${textIn(event, 'commandId')}`;
}
