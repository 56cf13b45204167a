/**
 * Builds one batch of a shard: inputs in order through `decide`, into what the append writes.
 *
 * Guards that nothing is kept in memory before it is committed: the builder works on its own entries and
 * `keep` puts them into the store only afterwards. Bad messages become dead letters in the same append.
 */
import type { decide as coreDecide } from '../core/decide.ts';
import { ERRORS, SagaxError, type ErrorCode } from '../core/errors.ts';
import type { LoggedEvent } from '../core/events.ts';
import { decodeLetter, isLetter, keptText, type DeadLetter } from '../core/letters.ts';
import { partitionOf } from '../core/shards.ts';
import {
  earliestDue,
  isEnded,
  shownFailure,
  shownState,
  statusOf,
  type SagaState,
} from '../core/state.ts';
import { decodeInbox, type InboxInput } from '../core/wire.ts';
import { type Bus, type ReceivedMessage, type SagaSummary, type ShardBatch } from '../ports.ts';
import type { NewSagas } from './new-sagas.ts';
import type { Registry } from './registry.ts';
import { snapshotOf, type Entry, type SagaStore } from './saga-store.ts';
import type { Telemetry } from './telemetry.ts';

/** Events of a stream after which a snapshot is worth its bytes: folding as many takes about 2 ms. */
const SNAPSHOT_EVERY_EVENTS = 100;
/** Wakes of one saga in one batch; a saga with more due timers goes on in the next batch. */
const WAKES_PER_SAGA = 50;
/** When a saga that can't be woken is looked at again. Left as they are, such wake-ups would crowd out all others. */
const STUCK_WAKE_MS = 60_000;

export interface BatchContext {
  bus: Bus;
  registry: Registry;
  telemetry: Telemetry;
  store: SagaStore;
  newSagas: NewSagas;
  decide: typeof coreDecide;
  shard: number;
  shardCount: number;
  epoch: number;
  nextOffset: bigint;
  nextSeq: number;
  /** The offset from which messages were missing and have been asked for; null when there was none. */
  gapAskedFrom: bigint | null;
  /** ms since the epoch, the database's clock: the time of every event in the batch. */
  now: number;
}

type LiveEntry = Extract<Entry, { kind: 'live' }>;
type Parsed = { message: ReceivedMessage } & (
  { input: InboxInput } | { letter: DeadLetter } | { error: SagaxError }
);

export class BatchBuilder {
  readonly #context: BatchContext;
  readonly #events: LoggedEvent[] = [];
  readonly #deadLetters: DeadLetter[] = [];
  readonly #forwards: ReceivedMessage[] = [];
  readonly #touched = new Map<string, LiveEntry>();
  #entries = new Map<string, Entry>();
  #wakeups: { sagaId: string; dueAt: number | null }[] = [];
  nextOffset: bigint;
  nextSeq: number;
  messageCount = 0;
  /** Set when the messages are not the next ones of the partition: where reading must go on. */
  resumeAt: bigint | null = null;

  constructor(context: BatchContext) {
    this.#context = context;
    this.nextOffset = context.nextOffset;
    this.nextSeq = context.nextSeq;
  }

  get isEmpty(): boolean {
    return (
      this.#events.length === 0 &&
      this.#wakeups.length === 0 &&
      this.nextOffset === this.#context.nextOffset
    );
  }

  get wakeups(): readonly { sagaId: string; dueAt: number | null }[] {
    return this.#wakeups;
  }

  /** Applies messages in order, then wakes. Reads the log for sagas that are not in memory. */
  async apply(messages: readonly ReceivedMessage[], wakes: readonly string[]): Promise<void> {
    const parsed = this.#fresh(messages).map((message) => parse(message));
    const ids = new Set(wakes);
    for (const one of parsed)
      if ('input' in one && this.#isOurs(one.input) && !this.#isNew(one.input))
        ids.add(one.input.body.sagaId);
    this.#entries = await this.#context.store.get(ids);
    for (const one of parsed) this.#guarded(one);
    for (const sagaId of wakes) this.#guardedWake(sagaId);
    for (const [sagaId, entry] of this.#touched) this.#noteWakeup(sagaId, entry);
  }

  /** In the place of `apply`, for what can't be written: parks the messages, and puts the wakes off. */
  giveUp(messages: readonly ReceivedMessage[], wakes: readonly string[], error: Error): void {
    for (const message of this.#fresh(messages))
      this.#park(message, 'INTERNAL', error.stack ?? error.message);
    for (const sagaId of wakes) this.#putOff(sagaId, error);
  }

  #putOff(sagaId: string, error: Error): void {
    this.#context.telemetry.log.error(
      { sagaId, err: error },
      'a due timer could not be applied; it is tried again in a minute',
    );
    this.#wakeups.push({ sagaId, dueAt: this.#context.now + STUCK_WAKE_MS });
  }

  /** Messages at and above the offset that the log has; those below were applied before (I4). */
  #fresh(messages: readonly ReceivedMessage[]): ReceivedMessage[] {
    const { telemetry } = this.#context;
    const fresh: ReceivedMessage[] = [];
    for (const message of messages) {
      if (message.offset < this.nextOffset) {
        telemetry.count('inputs_skipped_total');
        continue;
      }
      // The bus's own position was ahead of ours (it is only a hint): read what lies between, if it is still there.
      if (message.offset > this.nextOffset && fresh.length === 0 && this.#askForGap(message))
        return [];
      fresh.push(message);
      this.nextOffset = message.offset + 1n;
      this.messageCount += 1;
    }
    return fresh;
  }

  /** @returns whether to go back for the missing messages; the second time they are gone for good. */
  #askForGap(message: ReceivedMessage): boolean {
    const { telemetry, shard, gapAskedFrom } = this.#context;
    const from = this.nextOffset;
    if (gapAskedFrom === from) {
      telemetry.log.error(
        { shard, from: String(from), to: String(message.offset) },
        'inbox messages are gone from the bus (retention, or a topic made anew); going on behind the gap',
      );
      return false;
    }
    this.resumeAt = from;
    return true;
  }

  /** The log need not be read for it. */
  #isNew({ type, body }: InboxInput): boolean {
    const { newSagas, now } = this.#context;
    return type === 'start' && newSagas.isNew(body.sagaId, now);
  }

  #isOurs(input: InboxInput): boolean {
    return partitionOf(input.body.sagaId, this.#context.shardCount) === this.#context.shard;
  }

  /** A defect met on one message must not stop the partition: it is parked, with what was thrown. */
  #guarded(one: Parsed): void {
    try {
      this.#applyMessage(one);
    } catch (error) {
      const { stack, message } = asError(error);
      this.#park(one.message, 'INTERNAL', stack ?? message);
    }
  }

  #guardedWake(sagaId: string): void {
    try {
      this.#wake(sagaId);
    } catch (error) {
      // What it did before it threw stands; its row is written by #noteWakeup then.
      if (!this.#touched.has(sagaId)) this.#putOff(sagaId, asError(error));
    }
  }

  #applyMessage(one: Parsed): void {
    if ('error' in one) return this.#park(one.message, one.error.code, one.error.message);
    if ('letter' in one) return this.#keepReported(one.letter);
    const { message, input } = one;
    const { sagaId, namespace } = input.body;
    if (!this.#isOurs(input)) {
      // A foreign client with another partitioner: pass it on, then move our offset past it.
      this.#forwards.push(message);
      return;
    }
    const entry = this.#touched.get(sagaId) ?? this.#entries.get(sagaId) ?? { kind: 'absent' };
    switch (entry.kind) {
      case 'ended':
        this.#context.telemetry.count('inputs_ignored_total');
        return;
      case 'unusable':
        return this.#park(message, entry.error.code, entry.error.message);
      case 'absent':
        return this.#applyFirst(message, input);
      case 'live':
        if (namespace !== entry.state.namespace) {
          return this.#park(
            message,
            'SAGA_UNKNOWN',
            `Saga ${sagaId} is not in the namespace "${namespace}".`,
          );
        }
        return this.#decide(message, entry, input);
    }
  }

  #applyFirst(message: ReceivedMessage, input: InboxInput): void {
    if (input.type !== 'start') {
      return this.#park(message, 'SAGA_UNKNOWN', `No saga ${input.body.sagaId} has been started.`);
    }
    const { definition: name, definitionVersion } = input.body;
    const definition = this.#context.registry.get(name, definitionVersion);
    if (definition === undefined) {
      return this.#park(
        message,
        'DEFINITION_UNKNOWN',
        `This engine does not know ${name}@${definitionVersion}. Deploy it, then redrive this message.`,
      );
    }
    const decision = this.#context.decide(
      definition,
      input.body.sagaId,
      null,
      input,
      this.#context.now,
    );
    if (decision.kind === 'refused') return this.#park(message, decision.code, decision.why);
    if (decision.kind === 'accepted') {
      this.#accept(
        { kind: 'live', definition, state: decision.state, wakeAt: null, snapshotVersion: 0 },
        0,
        decision.events,
      );
    }
  }

  #decide(message: ReceivedMessage, entry: LiveEntry, input: InboxInput): void {
    const { definition, state } = entry;
    const decision = this.#context.decide(
      definition,
      state.sagaId,
      state,
      input,
      this.#timeFor(state),
    );
    switch (decision.kind) {
      case 'ignored':
        this.#context.telemetry.count('inputs_ignored_total');
        this.#context.telemetry.log.debug(
          { sagaId: state.sagaId, why: decision.why },
          'an input was ignored',
        );
        return;
      case 'refused':
        return this.#park(message, decision.code, decision.why);
      case 'accepted':
        this.#accept({ ...entry, state: decision.state }, state.streamVersion, decision.events);
    }
  }

  #wake(sagaId: string): void {
    for (let round = 0; round < WAKES_PER_SAGA; round++) {
      const entry = this.#touched.get(sagaId) ?? this.#entries.get(sagaId);
      if (entry?.kind === 'ended' || entry?.kind === 'absent' || entry === undefined) {
        this.#wakeups.push({ sagaId, dueAt: null });
        return;
      }
      if (entry.kind === 'unusable') return this.#putOff(sagaId, entry.error);
      const { definition, state } = entry;
      const decision = this.#context.decide(
        definition,
        sagaId,
        state,
        { type: 'wake' },
        this.#timeFor(state),
      );
      if (decision.kind !== 'accepted') {
        // A stale row woke it: let #noteWakeup write the true time.
        this.#touched.set(sagaId, { ...entry, wakeAt: undefined });
        return;
      }
      this.#accept(
        { ...entry, state: decision.state, wakeAt: undefined },
        state.streamVersion,
        decision.events,
      );
    }
  }

  /** The time of a saga's events never goes back, whichever node writes them. */
  #timeFor(state: SagaState): number {
    return Math.max(this.#context.now, state.updatedAt);
  }

  #accept(entry: LiveEntry, versionBefore: number, events: readonly LoggedEvent['event'][]): void {
    const { shard, epoch, telemetry } = this.#context;
    const { state } = entry;
    telemetry.count('inputs_accepted_total');
    let streamVersion = versionBefore;
    for (const event of events) {
      streamVersion += 1;
      this.#events.push({
        sagaId: state.sagaId,
        namespace: state.namespace,
        streamVersion,
        shard,
        shardSeq: this.nextSeq,
        epoch,
        at: state.updatedAt,
        event,
      });
      this.nextSeq += 1;
      if (event.type === 'SagaStuck') telemetry.count('sagas_stuck_total');
    }
    if (isEnded(state)) telemetry.count('sagas_ended_total', 1, { status: statusOf(state) });
    this.#touched.set(state.sagaId, entry);
  }

  /**
   * The kept wake-up is a hint that is never later than the earliest due time: it is written when it must
   * become earlier, and left when it may become later (it then wakes the saga once for nothing).
   */
  #noteWakeup(sagaId: string, entry: LiveEntry): void {
    const due = earliestDue(entry.state)?.at ?? null;
    if (isEnded(entry.state)) {
      if (entry.wakeAt !== null) this.#wakeups.push({ sagaId, dueAt: null });
      return;
    }
    const isCovered =
      due === null
        ? entry.wakeAt !== undefined
        : typeof entry.wakeAt === 'number' && entry.wakeAt <= due;
    if (isCovered || (due === null && entry.wakeAt === null)) return;
    this.#wakeups.push({ sagaId, dueAt: due });
    entry.wakeAt = due;
  }

  #park(message: ReceivedMessage, code: ErrorCode, reason: string): void {
    const { telemetry, now } = this.#context;
    telemetry.count('dead_letters_total', 1, { code });
    telemetry.log.warn(
      {
        topic: message.topic,
        partition: message.partition,
        offset: String(message.offset),
        code,
        reason,
      },
      'a message is parked as a dead letter',
    );
    this.#deadLetters.push({
      topic: message.topic,
      partition: message.partition,
      offset: message.offset,
      key: message.key,
      headers: message.headers,
      value: keptText(message.value, code),
      code,
      reason,
      at: now,
    });
  }

  /** A participant has parked a message of a command topic: people see it, and redrive it, here. */
  #keepReported(letter: DeadLetter): void {
    // Its code may be anything, and a figure keeps each value of a label for ever.
    const code = Object.hasOwn(ERRORS, letter.code) ? letter.code : 'OTHER';
    this.#context.telemetry.count('dead_letters_total', 1, { code });
    this.#deadLetters.push(letter);
  }

  /** Publishes messages that belong to other shards; before the commit, so that none is lost (a repeat is dropped there). */
  async forward(): Promise<void> {
    if (this.#forwards.length === 0 || (await this.#passOn(this.#forwards)) === null) return;
    // One that the bus refuses must not hold up the others, nor this shard.
    for (const message of this.#forwards) {
      const refusal = await this.#passOn([message]);
      if (refusal !== null) this.#park(message, refusal.code, refusal.message);
    }
  }

  /**
   * @returns why the bus will never take them, or null when it has taken all
   * @throws SagaxError when it is away
   */
  async #passOn(messages: readonly ReceivedMessage[]): Promise<SagaxError | null> {
    const { bus, shardCount, telemetry } = this.#context;
    try {
      await bus.publish(
        messages.map(({ topic, headers, value }) => {
          const sagaId = decodeInbox({ headers, value }).body.sagaId;
          return {
            topic,
            partition: partitionOf(sagaId, shardCount),
            key: sagaId,
            headers,
            value: value ?? '',
          };
        }),
      );
    } catch (error) {
      if (!(error instanceof SagaxError) || error.kind === 'retryable') throw error;
      return error;
    }
    telemetry.count('messages_forwarded_total', messages.length);
    return null;
  }

  build(publishedSeq: number | undefined): ShardBatch {
    const { shard, epoch } = this.#context;
    const ids = new Set(this.#events.map(({ sagaId }) => sagaId));
    const changed = [...this.#touched].flatMap(([sagaId, entry]) =>
      ids.has(sagaId) ? [entry] : [],
    );
    return {
      shard,
      epoch,
      events: this.#events,
      ...(this.nextOffset === this.#context.nextOffset ? {} : { nextOffset: this.nextOffset }),
      ...(publishedSeq === undefined ? {} : { publishedSeq }),
      wakeups: this.#wakeups,
      summaries: changed.map((entry) => summaryOf(entry.state)),
      snapshots: changed.flatMap((entry) => this.#snapshot(entry)),
      deadLetters: this.#deadLetters,
    };
  }

  #snapshot(entry: LiveEntry): ReturnType<typeof snapshotOf>[] {
    const { definition, state } = entry;
    if (isEnded(state) || state.streamVersion - entry.snapshotVersion < SNAPSHOT_EVERY_EVENTS)
      return [];
    entry.snapshotVersion = state.streamVersion;
    return [snapshotOf(definition, state)];
  }

  /** Puts what was committed into the store. */
  keep(): void {
    const { store, newSagas, now } = this.#context;
    for (const [sagaId, entry] of this.#touched) store.put(sagaId, entry);
    for (const { sagaId, streamVersion } of this.#events)
      if (streamVersion === 1) newSagas.started(sagaId, now);
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

function parse(message: ReceivedMessage): Parsed {
  try {
    if (isLetter(message)) return { message, letter: decodeLetter(message) };
    return { message, input: decodeInbox(message) };
  } catch (error) {
    const known =
      error instanceof SagaxError ? error : new SagaxError('MESSAGE_INVALID', String(error));
    return { message, error: known };
  }
}

export function summaryOf(state: SagaState): SagaSummary {
  const failure = shownFailure(state);
  return {
    sagaId: state.sagaId,
    namespace: state.namespace,
    definition: state.definition,
    definitionVersion: state.definitionVersion,
    status: statusOf(state),
    state: shownState(state),
    businessKey: state.businessKey ?? null,
    attributes: state.attributes ?? {},
    streamVersion: state.streamVersion,
    startedAt: state.startedAt,
    updatedAt: state.updatedAt,
    endedAt: state.endedAt ?? null,
    pivotPassed: state.pivot === 'passed',
    failureCode: failure?.code ?? null,
    failureMessage: failure?.message ?? null,
    output: state.output ?? null,
  };
}
