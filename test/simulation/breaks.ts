/**
 * Deliberate breaks of the engine, at least one for each invariant: a port or a core function that is
 * handed to the runtime, wrapped so that it does what it must not.
 *
 * Guards the simulator itself: a check that no break can make fail proves nothing. Production code knows
 * nothing of them.
 */
import { decide as coreDecide } from '../../engine/core/decide.ts';
import { FencedError } from '../../engine/core/errors.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import type { SagaState } from '../../engine/core/state.ts';
import { CE_TYPES, encodeMessage, type CommandBody } from '../../engine/core/wire.ts';
import type { Appended, Bus, BusMessage, EventLog, ShardBatch } from '../../engine/ports.ts';
import { messageOf } from '../../engine/runtime/outbox.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import type { Barrier } from '../../workers/ports.ts';
import type { Breakage, Lasting } from './breakage.ts';
import type { Invariant } from './evidence.ts';
import { TOPIC_PREFIX } from './processes.ts';

export interface Break {
  name: string;
  invariant: Invariant;
  /** What is done wrong, in words. */
  what: string;
  breakage: Breakage;
}

type Decide = typeof coreDecide;

/** `decide` with another state than the true one. */
function withState(change: (state: SagaState) => SagaState): Decide {
  return (definition, sagaId, state, input, now) =>
    coreDecide(definition, sagaId, state === null ? null : change(state), input, now);
}

/** `decide` whose events are changed after the fact. */
function withEvents(change: (events: SagaEvent[]) => SagaEvent[]): Decide {
  return (...args) => {
    const decision = coreDecide(...args);
    if (decision.kind !== 'accepted') return decision;
    const events = change(decision.events);
    const streamVersion = decision.state.streamVersion + events.length - decision.events.length;
    return { ...decision, events, state: { ...decision.state, streamVersion } };
  };
}

function onAppend(
  append: (log: EventLog, batch: ShardBatch, lasting: Lasting) => Promise<Appended>,
): NonNullable<Breakage['eventLog']> {
  return (log, lasting) => ({ ...log, append: (batch) => append(log, batch, lasting) });
}

/** A store with another barrier, and without shared transactions, which have barriers of their own. */
function onBarrier(
  change: (barrier: Barrier<MemoryTx>) => Partial<Barrier<MemoryTx>>,
): NonNullable<Breakage['store']> {
  return (store) => ({
    start: () => store.start(),
    claim: (entry, leaseMs) => store.claim(entry, leaseMs),
    extend: (id, token, leaseMs) => store.extend(id, token, leaseMs),
    record: (id, token, outcome) => store.record(id, token, outcome),
    endLease: (id, token) => store.endLease(id, token),
    park: (letter) => store.park(letter),
    isTransient: (error) => store.isTransient(error),
    transaction: (work) =>
      store.transaction((barrier) =>
        work({
          tx: barrier.tx,
          insert: (entry, state) => barrier.insert(entry, state),
          read: (id) => barrier.read(id),
          takeOver: (id) => barrier.takeOver(id),
          answer: (id, answer) => barrier.answer(id, answer),
          savepoint: () => barrier.savepoint(),
          rollbackToSavepoint: () => barrier.rollbackToSavepoint(),
          ...change(barrier),
        }),
      ),
  });
}

function onPublish(
  change: (messages: readonly BusMessage[], lasting: Lasting) => BusMessage[],
): NonNullable<Breakage['bus']> {
  return (bus, lasting): Bus => ({
    ...bus,
    publish: (messages) => bus.publish(change(messages, lasting)),
  });
}

function commandIn(message: BusMessage): CommandBody | null {
  if (message.headers['ce_type'] !== CE_TYPES.command) return null;
  return JSON.parse(message.value) as CommandBody;
}

/** Writes although it is fenced: its numbers are made to fit, the epoch in its events stays the old one. */
async function appendFenced(log: EventLog, batch: ShardBatch, { db }: Lasting): Promise<Appended> {
  try {
    return await log.append(batch);
  } catch (error) {
    if (!(error instanceof FencedError)) throw error;
    const row = db.shard(batch.shard);
    const versions = new Map<string, number>();
    const events = batch.events.map((event, index) => {
      const { sagaId } = event;
      const before = versions.get(sagaId) ?? db.streams.get(sagaId)?.length ?? 0;
      versions.set(sagaId, before + 1);
      return { ...event, streamVersion: before + 1, shardSeq: row.nextSeq + index };
    });
    return log.append({ ...batch, epoch: row.epoch, events });
  }
}

/** Loses a row: the event before the one that ends a saga. */
async function appendWithLoss(
  log: EventLog,
  batch: ShardBatch,
  { db }: Lasting,
): Promise<Appended> {
  const appended = await log.append(batch);
  const end = batch.events.find(
    ({ event }) => event.type === 'SagaCompleted' || event.type === 'SagaCompensated',
  );
  if (end === undefined) return appended;
  const lost = (event: { sagaId: string; streamVersion: number }): boolean =>
    event.sagaId === end.sagaId && event.streamVersion === end.streamVersion - 1;
  const stream = db.streams.get(end.sagaId) ?? [];
  db.streams.set(
    end.sagaId,
    stream.filter((event) => !lost(event)),
  );
  const events = db.byShard[batch.shard] ?? [];
  db.byShard[batch.shard] = events.filter((event) => !lost(event));
  return appended;
}

/** Commands of one kind are answered in the participant's stead, and not sent. */
function answerFor(op: CommandBody['op'], outcome: object): NonNullable<Breakage['bus']> {
  return onPublish((messages, { broker }) =>
    messages.filter((message) => {
      const command = commandIn(message);
      if (command?.op !== op) return true;
      const { commandId, sagaId, namespace, attempt, replyTo } = command;
      const type = CE_TYPES.reply;
      const envelope = { type, id: `${commandId}#faked`, source: '/', at: 0, sagaId };
      const body = { commandId, sagaId, namespace, attempt, ...outcome };
      broker.append([{ ...encodeMessage(envelope, body), ...replyTo }]);
      return false;
    }),
  );
}

/** Publishes what a batch asks for before the batch is committed. */
async function publishFirst(
  log: EventLog,
  batch: ShardBatch,
  { broker }: Lasting,
): Promise<Appended> {
  const topology = { topicPrefix: TOPIC_PREFIX, commandPartitions: 1 };
  const messages = batch.events.map((logged) => messageOf(logged, topology));
  broker.append(messages.filter((message) => message !== null));
  return log.append(batch);
}

async function sayThoughFenced(
  log: EventLog,
  batch: ShardBatch,
  { broker }: Lasting,
): Promise<Appended> {
  try {
    return await log.append(batch);
  } catch (error) {
    if (error instanceof FencedError) broker.append(batch.messages?.() ?? []);
    throw error;
  }
}

/** Another id for each further attempt. */
function renameAttempt(message: BusMessage): BusMessage {
  const command = commandIn(message);
  if (command === null || command.op !== 'do' || command.attempt === 1) return message;
  const commandId = `${command.sagaId}.${900 + command.attempt}`;
  return {
    ...message,
    headers: { ...message.headers, ce_id: `${commandId}#${command.attempt}` },
    value: JSON.stringify({ ...command, commandId }),
  };
}

/** Forgets the step's first message now and then. */
function dropSome(messages: readonly BusMessage[]): BusMessage[] {
  return messages.filter((message) => {
    const command = commandIn(message);
    const n =
      Number(command?.sagaId.at(-4) ?? '0') + Number(command?.commandId.split('.')[1] ?? '0');
    return command === null || command.op !== 'do' || n % 5 !== 0;
  });
}

/** A consumer that loses messages between the bus and the engine. */
function losingBus(bus: Bus): Bus {
  return {
    ...bus,
    subscribe: (options) =>
      bus.subscribe({
        ...options,
        onBatch: async (batch) => {
          const messages = batch.messages.filter(({ offset }) => offset % 6n !== 5n);
          if (messages.length === 0)
            return batch.commit((batch.messages.at(-1)?.offset ?? 0n) + 1n);
          return options.onBatch({ ...batch, messages });
        },
      }),
  };
}

export const BREAKS: readonly Break[] = [
  {
    name: 'lost-row',
    invariant: 'I1',
    what: 'the log loses an event',
    breakage: { eventLog: onAppend(appendWithLoss) },
  },
  {
    name: 'no-fence',
    invariant: 'I2',
    what: 'an owner that was fenced writes all the same',
    breakage: { eventLog: onAppend(appendFenced) },
  },
  {
    name: 'same-epoch',
    invariant: 'I2',
    what: 'a take-over does not bump the epoch',
    breakage: {
      shardLeases: (leases, { db }) => ({
        ...leases,
        acquire: async (shard, owner, ttlMs, options) => {
          const lease = await leases.acquire(shard, owner, ttlMs, options);
          if (lease === null || lease.epoch === 1) return lease;
          db.shard(shard).epoch -= 1;
          return { ...lease, epoch: lease.epoch - 1 };
        },
      }),
    },
  },
  {
    name: 'new-id-per-attempt',
    invariant: 'I3',
    what: 'a further attempt is published under another id',
    breakage: { bus: onPublish((messages) => messages.map(renameAttempt)) },
  },
  {
    name: 'forgetful',
    invariant: 'I4',
    what: 'which signals and verbs were taken is forgotten',
    breakage: { decide: withState((state) => ({ ...state, seenIds: [] })) },
  },
  {
    name: 'forgotten-cancel',
    invariant: 'I4',
    what: 'a cancel that came while compensating is forgotten',
    breakage: { decide: withState(({ keptCancel: _, ...state }) => state) },
  },
  {
    name: 'losing-consumer',
    invariant: 'I4',
    what: 'messages are lost between the bus and the shard',
    breakage: { bus: losingBus },
  },
  {
    name: 'after-the-end',
    invariant: 'I5',
    what: 'an event is written behind the end',
    breakage: {
      decide: withEvents((events) => {
        const last = events.at(-1)?.type;
        const ended = last === 'SagaCompleted' || last === 'SagaCompensated';
        return ended ? [...events, { type: 'SagaPaused' }] : events;
      }),
    },
  },
  {
    name: 'any-order',
    invariant: 'I6',
    what: 'compensations run without regard to order',
    breakage: {
      decide: withState((state) => ({
        ...state,
        steps: Object.fromEntries(
          Object.entries(state.steps).map(([id, step]) => [id, { ...step, requestedVersion: 0 }]),
        ),
      })),
    },
  },
  {
    name: 'faked-compensation',
    invariant: 'I6',
    what: 'compensations are answered without having been done',
    breakage: { bus: answerFor('compensate', { outcome: 'succeeded', output: {} }) },
  },
  {
    name: 'faked-settlement',
    invariant: 'I6',
    what: 'a step whose outcome is unknown is taken as never run',
    breakage: { bus: answerFor('settle', { outcome: 'neverRan' }) },
  },
  {
    name: 'pivot-forgotten',
    invariant: 'I7',
    what: 'that the pivot has passed is forgotten, so a cancel goes through',
    breakage: {
      decide: withState((state) =>
        state.pivot === 'passed' ? { ...state, pivot: 'none' as const } : state,
      ),
    },
  },
  {
    name: 'no-barrier',
    invariant: 'I8',
    what: "the participant's barrier lets repeats through",
    breakage: {
      store: onBarrier((barrier) => {
        const repeated = new Set<string>();
        return {
          insert: async (entry, state) => {
            const fresh = await barrier.insert(entry, state);
            if (!fresh) repeated.add(entry.commandId);
            return fresh || state === 'running';
          },
          answer: async (id, answer) => {
            if (!repeated.has(id)) await barrier.answer(id, answer);
          },
        };
      }),
    },
  },
  {
    name: 'lost-effect',
    invariant: 'I8',
    what: 'a participant answers that it is done, and its change is not written',
    breakage: {
      store: onBarrier((barrier) => ({ tx: { ...barrier.tx, set: () => Promise.resolve() } })),
    },
  },
  {
    name: 'other-state',
    invariant: 'I9',
    what: 'the shard goes on with a state that its events do not give',
    breakage: {
      decide: (...args) => {
        const decision = coreDecide(...args);
        if (decision.kind !== 'accepted') return decision;
        return {
          ...decision,
          state: { ...decision.state, startedAt: decision.state.startedAt + 1 },
        };
      },
    },
  },
  {
    name: 'other-effects',
    invariant: 'I9',
    what: 'other effects are logged than the definition gives',
    breakage: {
      decide: withEvents((events) =>
        events.map((event) =>
          event.type === 'StepRequested' && event.deadlineAt !== undefined
            ? { ...event, deadlineAt: event.deadlineAt + 1 }
            : event,
        ),
      ),
    },
  },
  {
    name: 'dropped-commands',
    invariant: 'I10',
    what: 'some commands are taken as published and are not',
    breakage: { bus: onPublish(dropSome) },
  },
  {
    name: 'published-first',
    invariant: 'I10',
    what: 'commands are published before their events are committed',
    breakage: { eventLog: onAppend(publishFirst) },
  },
  {
    name: 'said-though-fenced',
    invariant: 'I10',
    what: 'what a batch has to say goes out though the batch itself is fenced',
    breakage: { eventLog: onAppend(sayThoughFenced) },
  },
  {
    name: 'fast-clock',
    invariant: 'I11',
    what: "the engine's clock is ahead of the database's",
    breakage: {
      clock: (clock) => ({
        now: () => clock.now() + 400,
        monotonic: () => clock.monotonic(),
        sleep: (ms, signal) => clock.sleep(ms, signal),
      }),
    },
  },
  {
    name: 'timers-not-read',
    invariant: 'I12',
    what: "a new owner does not read the shard's timers",
    breakage: { eventLog: (log) => ({ ...log, dueWakeups: () => Promise.resolve([]) }) },
  },
  {
    name: 'hidden-reason',
    invariant: 'I12',
    what: 'a stuck saga is shown without what it is stuck for',
    breakage: {
      eventLog: onAppend((log, batch) =>
        log.append({
          ...batch,
          summaries: batch.summaries.map((summary) => ({ ...summary, failureCode: null })),
        }),
      ),
    },
  },
  {
    name: 'one-node-id',
    invariant: 'I13',
    what: 'two processes get one Snowflake node id',
    breakage: {
      nodeIds: (leases) => ({
        ...leases,
        acquire: async (owner, ttlMs) => ({
          ...(await leases.acquire(owner, ttlMs)),
          nodeId: 0,
          startAboveMs: 0,
        }),
        renew: () => Promise.resolve(true),
      }),
    },
  },
];
