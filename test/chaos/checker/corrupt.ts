/**
 * Ways to corrupt the record of a run: at least one for each invariant, so that a check that can't fail is found.
 *
 * Guards nothing by itself; corrupt.test files prove with it that the checker names what is wrong.
 */
import type { EventRow, Evidence, Invariant } from './evidence.ts';

export interface Corruption {
  invariant: Exclude<Invariant, 'I9'>;
  name: string;
  /** Changes the record, which is a copy. @throws Error when the record has nothing of the kind */
  apply: (evidence: Evidence) => void;
}

function first<T>(list: readonly T[], what: string, wanted: (one: T) => boolean): T {
  const found = list.find(wanted);
  if (found === undefined) throw new Error(`The record has no ${what}; record a longer run.`);
  return found;
}

const eventOf = (evidence: Evidence, type: string, more?: (row: EventRow) => boolean): EventRow =>
  first(evidence.events, type, (row) => row.type === type && (more?.(row) ?? true));

/** Takes an event out and closes the gap, so that only what it said is missing. */
function remove(evidence: Evidence, row: EventRow): void {
  evidence.events.splice(evidence.events.indexOf(row), 1);
  for (const one of evidence.events) {
    if (one.sagaId === row.sagaId && one.streamVersion > row.streamVersion) one.streamVersion--;
    if (one.shard === row.shard && one.shardSeq > row.shardSeq) one.shardSeq--;
  }
  for (const shard of evidence.shards) {
    if (shard.shard !== row.shard) continue;
    shard.nextSeq--;
    shard.publishedSeq--;
  }
  for (const epoch of evidence.epochs)
    if (epoch.shard === row.shard && epoch.fromSeq > row.shardSeq) epoch.fromSeq--;
  const saga = evidence.sagas.find(({ sagaId }) => sagaId === row.sagaId);
  if (saga !== undefined) saga.streamVersion--;
}

/** Puts an event behind another one, in order in every respect but what it says. */
function insertAfter(evidence: Evidence, row: EventRow, event: EventRow['event']): void {
  for (const one of evidence.events) {
    if (one.sagaId === row.sagaId && one.streamVersion > row.streamVersion) one.streamVersion++;
    if (one.shard === row.shard && one.shardSeq > row.shardSeq) one.shardSeq++;
  }
  for (const epoch of evidence.epochs)
    if (epoch.shard === row.shard && epoch.fromSeq > row.shardSeq) epoch.fromSeq++;
  for (const shard of evidence.shards) {
    if (shard.shard !== row.shard) continue;
    shard.nextSeq++;
    shard.publishedSeq++;
  }
  const saga = evidence.sagas.find(({ sagaId }) => sagaId === row.sagaId);
  if (saga !== undefined) saga.streamVersion++;
  const { streamVersion, shardSeq } = row;
  const added = { ...row, streamVersion: streamVersion + 1, shardSeq: shardSeq + 1 };
  evidence.events.splice(evidence.events.indexOf(row) + 1, 0, {
    ...added,
    type: event.type,
    event,
  });
}

const isCommand = ({ topic }: { topic: string }): boolean => topic.includes('.commands.');
const commandIdOf = ({ event }: EventRow): string => String(event['commandId']);

export const CORRUPTIONS: readonly Corruption[] = [
  {
    invariant: 'I1',
    name: 'an event is missing',
    apply: ({ events }) => void events.splice(Math.floor(events.length / 2), 1),
  },
  {
    invariant: 'I1',
    name: 'two events of a stream have changed places',
    apply: (evidence) => {
      const row = eventOf(evidence, 'StepSucceeded');
      const next = first(
        evidence.events,
        'next event',
        (one) => one.sagaId === row.sagaId && one.streamVersion === row.streamVersion + 1,
      );
      [row.streamVersion, next.streamVersion] = [next.streamVersion, row.streamVersion];
    },
  },
  {
    invariant: 'I1',
    name: 'a position went back',
    apply: ({ regressions }) => void regressions.push({ shard: 0, what: 'next_seq 9 to 8' }),
  },
  {
    invariant: 'I2',
    name: 'a stale owner wrote after it was replaced',
    apply: (evidence) => {
      const row = eventOf(evidence, 'StepSucceeded');
      const holder = first(evidence.epochs, 'epoch', ({ shard }) => shard === row.shard);
      const shard = first(evidence.shards, 'shard', (one) => one.shard === row.shard);
      evidence.epochs.push({ shard: row.shard, epoch: shard.epoch + 1, fromSeq: row.shardSeq });
      shard.epoch++;
      for (const one of evidence.events) {
        const isLater = one.shard === row.shard && one.shardSeq > row.shardSeq;
        if (isLater) one.epoch = shard.epoch;
      }
      row.epoch = Math.max(holder.epoch, row.epoch);
    },
  },
  {
    invariant: 'I2',
    name: 'an epoch was given out twice',
    apply: ({ epochs }) => void epochs.push({ ...first(epochs, 'epoch', () => true) }),
  },
  {
    invariant: 'I3',
    name: 'a command was published under another id',
    apply: ({ messages }) => {
      const message = first(messages, 'command', isCommand);
      const body = JSON.parse(message.value ?? '') as { commandId: string };
      message.value = JSON.stringify({ ...body, commandId: `${body.commandId}9` });
    },
  },
  {
    invariant: 'I3',
    name: 'a command was published with another input',
    apply: ({ messages }) => {
      const message = first(messages, 'command', isCommand);
      const body = JSON.parse(message.value ?? '') as object;
      message.value = JSON.stringify({ ...body, input: { other: true } });
    },
  },
  {
    invariant: 'I4',
    name: 'an acknowledged start is nowhere',
    apply: ({ accepted }) =>
      void accepted.push({
        ...first(accepted, 'start', ({ kind }) => kind === 'start'),
        sagaId: '1',
        key: 'lost',
      }),
  },
  {
    invariant: 'I4',
    name: 'a signal was applied twice',
    apply: (evidence) => {
      const row = eventOf(evidence, 'SignalReceived');
      insertAfter(evidence, row, structuredClone(row.event));
    },
  },
  {
    invariant: 'I4',
    name: 'an answer was read and left no trace',
    apply: (evidence) => {
      const sagasWith = (type: string): Set<string> =>
        new Set(evidence.events.filter((row) => row.type === type).map((row) => row.sagaId));
      const [completed, undone] = [sagasWith('SagaCompleted'), sagasWith('CompensationRequested')];
      // What was compensated later has the compensation's answer for a trace.
      const row = eventOf(
        evidence,
        'StepSucceeded',
        ({ sagaId }) => completed.has(sagaId) && !undone.has(sagaId),
      );
      const end = eventOf(evidence, 'SagaCompleted', ({ sagaId }) => sagaId === row.sagaId);
      remove(evidence, row);
      remove(evidence, end);
    },
  },
  {
    invariant: 'I4',
    name: 'a message was parked as a dead letter',
    apply: ({ deadLetters, topicPrefix }) =>
      void deadLetters.push({
        topic: `${topicPrefix}.inbox`,
        partition: 0,
        offset: 0,
        code: 'MESSAGE_INVALID',
        reason: 'not JSON',
      }),
  },
  {
    invariant: 'I4',
    name: 'one start key led to two sagas',
    apply: ({ accepted }) => {
      const [a, b] = accepted.filter(({ kind }) => kind === 'start');
      if (a !== undefined && b !== undefined) accepted.push({ ...a, sagaId: b.sagaId });
    },
  },
  {
    invariant: 'I5',
    name: 'an event follows the end',
    apply: (evidence) => {
      const row = eventOf(evidence, 'SagaCompleted');
      insertAfter(evidence, row, { type: 'SagaPaused' });
    },
  },
  {
    invariant: 'I6',
    name: 'what was done was not taken back',
    apply: (evidence) => remove(evidence, eventOf(evidence, 'CompensationSucceeded')),
  },
  {
    invariant: 'I6',
    name: 'the participant did not take back what the log says was taken back',
    apply: (evidence) => {
      const effect = first(evidence.effects, 'compensation', ({ commandId }) =>
        commandId.endsWith('.c'),
      );
      evidence.effects.splice(evidence.effects.indexOf(effect), 1);
    },
  },
  {
    invariant: 'I6',
    name: 'participants took back in the wrong order',
    // An order gives back the money before the stock; regions of a trip have no order among themselves.
    apply: ({ effects }) => {
      const undone = effects.filter(({ commandId }) => commandId.endsWith('.c'));
      const sagaOf = ({ commandId }: { commandId: string }): string =>
        commandId.split('.')[0] ?? '';
      const stock = undone.filter(({ service }) => service === 'inventory');
      const a = first(undone, 'order that gave back money and stock', (one) =>
        stock.some((two) => one.service === 'payments' && sagaOf(two) === sagaOf(one)),
      );
      const b = first(stock, 'stock given back', (two) => sagaOf(two) === sagaOf(a));
      [a.n, b.n] = [b.n, a.n];
    },
  },
  {
    invariant: 'I7',
    name: 'a compensation was begun past the pivot',
    apply: (evidence) => {
      const pivots = new Set(
        evidence.events
          .filter(({ type, event }) => type === 'StepRequested' && event['class'] === 'pivot')
          .map((row) => commandIdOf(row)),
      );
      const passed = eventOf(evidence, 'StepSucceeded', (row) => pivots.has(commandIdOf(row)));
      insertAfter(evidence, passed, { type: 'CompensationStarted', reason: null, owed: [] });
    },
  },
  {
    invariant: 'I8',
    name: 'a step took effect twice',
    apply: ({ effects }) => {
      const effect = first(effects, 'effect', ({ commandId }) => !commandId.endsWith('.c'));
      effects.push({ ...effect, n: effects.length + 1_000_000 });
    },
  },
  {
    invariant: 'I8',
    name: 'a step that is logged as done never took effect',
    apply: (evidence) => {
      const effect = first(evidence.effects, 'effect', ({ service }) => service === 'shipping');
      evidence.effects.splice(evidence.effects.indexOf(effect), 1);
    },
  },
  {
    invariant: 'I8',
    name: 'the books of a participant do not add up',
    apply: ({ books }) => {
      first(books, 'book', ({ service }) => service === 'bank-a').closing = '1';
    },
  },
  {
    invariant: 'I10',
    name: 'a command was never published',
    apply: (evidence) => {
      const id = first(evidence.messages, 'command', isCommand).headers['ce_id'];
      evidence.messages = evidence.messages.filter(({ headers }) => headers['ce_id'] !== id);
    },
  },
  {
    invariant: 'I10',
    name: 'a command was published that nobody asked for',
    apply: ({ messages }) => {
      const message = first(messages, 'command', isCommand);
      messages.push({ ...message, headers: { ...message.headers, ce_id: '9.1#1' } });
    },
  },
  {
    invariant: 'I10',
    name: 'the outbox has a rest',
    apply: ({ shards }) => {
      first(shards, 'shard in use', ({ publishedSeq }) => publishedSeq > 0).publishedSeq--;
    },
  },
  {
    invariant: 'I11',
    name: 'a timer fired early',
    apply: (evidence) => {
      const row = eventOf(evidence, 'TimerFired');
      row.witnessedAtMs -= 60_000;
    },
  },
  {
    invariant: 'I11',
    name: 'a timer fired twice',
    apply: (evidence) => {
      const row = eventOf(evidence, 'TimerFired');
      insertAfter(evidence, row, structuredClone(row.event));
    },
  },
  {
    invariant: 'I12',
    name: 'a saga never ended',
    apply: (evidence) => {
      const row = eventOf(evidence, 'SagaCompleted');
      remove(evidence, row);
      first(evidence.sagas, 'saga', ({ sagaId }) => sagaId === row.sagaId).status = 'running';
    },
  },
  {
    invariant: 'I12',
    name: 'a saga is stuck for a reason that is not shown',
    apply: (evidence) => {
      const row = eventOf(evidence, 'SagaCompleted');
      row.type = row.event.type = 'SagaStuck';
      row.event['failure'] = { code: 'STEP_TIMED_OUT', message: '' };
      const saga = first(evidence.sagas, 'saga', ({ sagaId }) => sagaId === row.sagaId);
      Object.assign(saga, { status: 'stuck', failureCode: null, endedAtMs: null });
    },
  },
  {
    invariant: 'I13',
    name: 'two requests got one id',
    apply: ({ accepted }) => {
      const start = first(accepted, 'start', ({ kind }) => kind === 'start');
      accepted.push({ ...start, key: 'another' });
    },
  },
  {
    invariant: 'I13',
    name: 'ids of a process went back',
    apply: ({ accepted }) => {
      const starts = accepted.filter(({ kind, isFirstTry }) => kind === 'start' && isFirstTry);
      const a = first(starts, 'start', () => true);
      const b = first(starts, 'later start', (one) => one.sentAtMs > a.answeredAtMs);
      [a.sagaId, b.sagaId] = [b.sagaId, a.sagaId];
    },
  },
  {
    invariant: 'I13',
    name: 'an id has a time that its node may not use',
    apply: ({ nodeIds }) => {
      for (const node of nodeIds) node.lastMs = 1;
    },
  },
];
