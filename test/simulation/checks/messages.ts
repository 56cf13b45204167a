/** Checks of what went over the bus: I3, I4, I10. */
import type { LoggedEvent, SagaEvent } from '../../../engine/core/events.ts';
import { canonicalJson } from '../../../engine/core/json.ts';
import { partitionOf } from '../../../engine/core/shards.ts';
import type { CommandBody, InboxInput } from '../../../engine/core/wire.ts';
import type { ReceivedMessage } from '../../../engine/ports.ts';
import type { Evidence, Violation } from '../evidence.ts';

type Body<T> = { message: ReceivedMessage; body: T };

function commandsOf({ commands }: Evidence): Body<CommandBody>[] {
  return commands.map((message) => ({ message, body: JSON.parse(message.value ?? 'null') }));
}

/** What the log asks for under one command id, and which attempts it has logged. */
interface Requested {
  command: string;
  op: string;
  input: string | null;
  attempts: Set<number>;
}

function requestsOf(
  events: readonly LoggedEvent[],
  complain: (what: string) => void,
): Map<string, Requested> {
  const requests = new Map<string, Requested>();
  const first = (id: string, command: string, op: string, input: unknown): void => {
    if (requests.has(id)) complain(`the id ${id} was requested twice`);
    requests.set(id, { command, op, input: canonicalJson(input), attempts: new Set([1]) });
  };
  for (const { event } of events) {
    if (event.type === 'StepRequested') first(event.commandId, event.command, 'do', event.input);
    if (event.type === 'SettlementRequested') {
      first(event.commandId, event.command, 'settle', null);
    }
    if (event.type === 'CompensationRequested') {
      first(event.commandId, event.command, 'compensate', event.input);
    }
    if (event.type !== 'CommandRetried') continue;
    const known = requests.get(event.commandId);
    if (known === undefined || known.command !== event.command || known.op !== event.op) {
      complain(
        `attempt ${event.attempt} has the id ${event.commandId}, which was not requested so`,
      );
    } else {
      if (known.input !== canonicalJson(event.input)) {
        complain(`attempt ${event.attempt} of ${event.commandId} has another input`);
      }
      known.attempts.add(event.attempt);
    }
  }
  return requests;
}

/** I3: a command's id is fixed by its request; every attempt and republication carries it. */
export function checkI3(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const requests = new Map<string, Requested>();
  for (const [sagaId, events] of evidence.streams) {
    const complain = (what: string): void => void found.push({ invariant: 'I3', sagaId, what });
    for (const [id, request] of requestsOf(events, complain)) requests.set(id, request);
  }
  for (const { message, body } of commandsOf(evidence)) {
    const { sagaId, commandId, attempt } = body;
    const add = (what: string): void => void found.push({ invariant: 'I3', sagaId, what });
    if (message.headers['ce_id'] !== `${commandId}#${attempt}`) {
      add(`a message for ${commandId} attempt ${attempt} is named ${message.headers['ce_id']}`);
    }
    const request = requests.get(commandId);
    if (request === undefined) {
      // An attempt or republication under an id that no request fixed.
      add(
        `attempt ${attempt} of ${body.command} was published as ${commandId}, an id never given out`,
      );
    } else if (
      request.command !== body.command ||
      request.op !== body.op ||
      request.input !== canonicalJson(body.input)
    ) {
      add(`${commandId} was published as another command than it was requested as`);
    }
  }
  return found;
}

/** I10: every logged command is published at least once, and no published command lacks its event. */
export function checkI10(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const published = new Map<string, ReceivedMessage>();
  for (const message of [...evidence.commands, ...evidence.domainEvents]) {
    published.set(message.headers['ce_id'] ?? '', message);
  }
  const logged = new Set<string>();
  for (const [sagaId, events] of evidence.streams) {
    for (const { event, streamVersion } of events) {
      const wanted = outgoing(event, sagaId, streamVersion, evidence.topicPrefix);
      if (wanted === null) continue;
      logged.add(wanted.id);
      const message = published.get(wanted.id);
      const what =
        message === undefined
          ? `${event.type} at version ${streamVersion} was never published (${wanted.id})`
          : message.topic !== wanted.topic
            ? `${wanted.id} was published to ${message.topic}, not to ${wanted.topic}`
            : message.partition !== partitionOf(sagaId, evidence.commandPartitions)
              ? `${wanted.id} was published to partition ${message.partition}`
              : null;
      if (what !== null) found.push({ invariant: 'I10', sagaId, what });
    }
  }
  for (const [id, message] of published) {
    if (logged.has(id)) continue;
    const what = `${id} was published to ${message.topic}, but the log has no event for it`;
    found.push({ invariant: 'I10', sagaId: message.key, what });
  }
  return found;
}

function outgoing(
  event: SagaEvent,
  sagaId: string,
  streamVersion: number,
  prefix: string,
): { id: string; topic: string } | null {
  switch (event.type) {
    case 'StepRequested':
    case 'SettlementRequested':
    case 'CompensationRequested':
      return { id: `${event.commandId}#1`, topic: topicOf(event.command, prefix) };
    case 'CommandRetried':
      return { id: `${event.commandId}#${event.attempt}`, topic: topicOf(event.command, prefix) };
    case 'DomainEventEmitted':
      return { id: `${sagaId}/${streamVersion}`, topic: `${prefix}.events` };
    default:
      return null;
  }
}

function topicOf(command: string, prefix: string): string {
  return `${prefix}.commands.${command.split('.')[0]}`;
}

/** I4: each input is applied at most once, and each accepted one at least once. */
export function checkI4(evidence: Evidence): Violation[] {
  const timeline = new Timeline(evidence);
  return [
    ...appliedTwice(evidence),
    ...keysReused(evidence),
    ...neverApplied(evidence, timeline),
    ...skipped(evidence),
    ...cancelsLost(evidence),
  ];
}

/** A cancel that was taken before the pivot counts, whenever it came: only a machine that handles it may complete. */
function cancelsLost({ streams, summaries, definitions }: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streams) {
    const definition = definitions.find(({ name }) => name === summaries.get(sagaId)?.definition);
    const isOwn = definition?.machine.events.includes('saga.cancel') ?? true;
    if (isOwn || events.at(-1)?.event.type !== 'SagaCompleted') continue;
    const refused = new Set(
      events.flatMap(({ event }) => (event.type === 'CancelRefused' ? [event.requestId] : [])),
    );
    for (const { event, streamVersion } of events) {
      if (event.type !== 'CancelRequested' || refused.has(event.requestId)) continue;
      const what = `the cancel ${event.requestId} was taken at version ${streamVersion}, and the saga completed`;
      found.push({ invariant: 'I4', sagaId, what });
    }
  }
  return found;
}

function keysReused({ keyed }: Evidence): Violation[] {
  return [...keyed]
    .filter(([, sagas]) => sagas.size > 1)
    .map(([key, sagas]) => ({
      invariant: 'I4',
      sagaId: null,
      what: `the start key ${key} was answered with the sagas ${[...sagas].join(', ')}`,
    }));
}

function appliedTwice({ streams }: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streams) {
    const seen = new Set<string>();
    for (const { event, streamVersion } of events) {
      for (const id of identities(event)) {
        if (seen.has(id)) {
          found.push({ invariant: 'I4', sagaId, what: `${id} again at version ${streamVersion}` });
        }
        seen.add(id);
      }
    }
  }
  return found;
}

/** Names under which an input may stand in a stream once. */
function identities(event: SagaEvent): string[] {
  switch (event.type) {
    case 'SagaStarted':
      return ['SagaStarted'];
    case 'SignalReceived':
      return [`SignalReceived ${event.signalId}`];
    case 'CancelRequested':
    case 'OperatorActed':
      return [`${event.type} ${event.requestId}`];
    case 'StepSucceeded':
    case 'StepRejected':
      return [`an answer to ${event.commandId}`];
    case 'StepSettled':
    case 'CompensationSucceeded':
      return [`${event.type} ${event.commandId}`];
    case 'StepFailed':
    case 'CompensationFailed':
    case 'SettlementFailed':
    case 'RetryDue':
      return [`${event.type} ${event.commandId}#${event.attempt}`];
    case 'InputDeferred': {
      const { cause } = event;
      const kept = [
        'SignalReceived',
        'CancelRequested',
        'OperatorActed',
        'StepSucceeded',
        'StepRejected',
      ];
      return kept.includes(cause.type) ? identities(cause).map((id) => `InputDeferred: ${id}`) : [];
    }
    default:
      return [];
  }
}

/** When, in the order of appends, offsets were applied and sagas ended. */
class Timeline {
  readonly #byShard = new Map<number, { index: number; nextOffset: bigint }[]>();
  readonly #indexOf = new Map<string, number>();

  constructor({ entries }: Evidence) {
    entries.forEach((entry, index) => {
      if (entry.kind !== 'appended') return;
      if (entry.nextOffset !== null) {
        const list = this.#byShard.get(entry.shard) ?? [];
        list.push({ index, nextOffset: entry.nextOffset });
        this.#byShard.set(entry.shard, list);
      }
      for (const { sagaId, streamVersion } of entry.events) {
        this.#indexOf.set(`${sagaId}/${streamVersion}`, index);
      }
    });
  }

  /** The append that moved the input offset past this message; null when none did. */
  appliedAt(message: ReceivedMessage): number | null {
    const passed = this.#byShard
      .get(message.partition)
      ?.find(({ nextOffset }) => nextOffset > message.offset);
    return passed?.index ?? null;
  }

  indexOf(logged: LoggedEvent): number {
    return this.#indexOf.get(`${logged.sagaId}/${logged.streamVersion}`) ?? Infinity;
  }
}

function neverApplied(evidence: Evidence, timeline: Timeline): Violation[] {
  const found: Violation[] = [];
  const parked = new Set(
    evidence.deadLetters.map(({ partition, offset }) => `${partition}/${offset}`),
  );
  const accepted = new Set(
    evidence.accepted.map(({ kind, sagaId, id }) => `${kind} ${sagaId} ${id}`),
  );
  const missing = new Set(accepted);
  for (const message of evidence.inbox) {
    const input = inputOf(message);
    if (input === null) continue;
    const { sagaId } = input.body;
    const name = `${input.type} ${sagaId} ${idOf(input)}`;
    missing.delete(name);
    if (isStray(message, sagaId, evidence)) continue;
    const appliedAt = timeline.appliedAt(message);
    if (appliedAt === null) {
      const what = `the ${input.type} at ${message.partition}/${message.offset} was never applied`;
      found.push({ invariant: 'I4', sagaId, what });
      continue;
    }
    if (parked.has(`${message.partition}/${message.offset}`)) continue;
    const events = evidence.streams.get(sagaId) ?? [];
    const traced = events.some(
      (logged) =>
        timeline.indexOf(logged) <= appliedAt &&
        (leavesTrace(input, logged.event) ||
          /^Saga(Completed|Compensated)$/.test(logged.event.type)),
    );
    if (!traced) {
      const what = `the ${input.type} ${idOf(input)} at ${message.partition}/${message.offset} left no trace in the log`;
      found.push({ invariant: 'I4', sagaId, what });
    }
  }
  for (const name of missing) {
    found.push({
      invariant: 'I4',
      sagaId: name.split(' ')[1] ?? null,
      what: `accepted, but not in the inbox: ${name}`,
    });
  }
  return found;
}

/** In another shard's partition: its copy in the right one counts. */
function isStray(message: ReceivedMessage, sagaId: string, { inbox, shards }: Evidence): boolean {
  const partition = partitionOf(sagaId, shards.length);
  return (
    message.partition !== partition &&
    inbox.some(
      (other) =>
        other.partition === partition && other.headers['ce_id'] === message.headers['ce_id'],
    )
  );
}

function inputOf(message: ReceivedMessage): InboxInput | null {
  const type = /^sagax\.(start|reply|signal|cancel|operator)\./.exec(
    message.headers['ce_type'] ?? '',
  );
  if (type === null || message.headers['poison'] !== undefined || message.value === null)
    return null;
  try {
    return { type: type[1], body: JSON.parse(message.value) } as InboxInput;
  } catch {
    return null;
  }
}

function idOf(input: InboxInput): string {
  switch (input.type) {
    case 'start':
      return input.body.sagaId;
    case 'signal':
      return input.body.signalId;
    case 'reply':
      return `${input.body.commandId} ${input.body.outcome}`;
    default:
      return input.body.requestId;
  }
}

/** Whether this event shows that the input was taken, or that nothing waited for it any more. */
function leavesTrace(input: InboxInput, event: SagaEvent): boolean {
  if (event.type === 'InputDeferred' || event.type === 'InputFaulted') {
    return leavesTrace(input, event.cause);
  }
  switch (input.type) {
    case 'start':
      return event.type === 'SagaStarted';
    case 'signal':
      return event.type === 'SignalReceived' && event.signalId === input.body.signalId;
    case 'cancel':
      return event.type === 'CancelRequested' && event.requestId === input.body.requestId;
    case 'operator':
      return event.type === 'OperatorActed' && event.requestId === input.body.requestId;
    case 'reply':
      return closesCall(input.body, event);
  }
}

/** Only final answers must leave a trace; failures and heartbeats of old attempts may be passed over. */
function closesCall(
  reply: Extract<InboxInput, { type: 'reply' }>['body'],
  event: SagaEvent,
): boolean {
  if (reply.outcome !== 'succeeded' && reply.outcome !== 'rejected') return true;
  if (event.type === 'OperatorActed') {
    const { action } = event;
    return 'commandId' in action && stepOf(action.commandId ?? '') === stepOf(reply.commandId);
  }
  if (!('commandId' in event) || event.commandId === undefined) return false;
  if (stepOf(event.commandId) !== stepOf(reply.commandId)) return false;
  const closing: SagaEvent['type'][] = [
    'StepSucceeded',
    'StepRejected',
    'StepGivenUp',
    'StepSuperseded',
    'StepSettled',
    'CompensationSucceeded',
    'CompensationFailed',
  ];
  if (event.type === 'StepFailed') return !event.retryable;
  if (reply.commandId.endsWith('.c')) return event.type.startsWith('Compensation');
  if (reply.commandId.endsWith('.s')) return event.type === 'StepSettled';
  return closing.includes(event.type);
}

function stepOf(commandId: string): string {
  return commandId.replace(/\.[cs]$/, '');
}

/** The input offset never goes back, and ends behind the last message. */
function skipped({ entries, shards, inbox }: Evidence): Violation[] {
  const found: Violation[] = [];
  const next = new Map<number, bigint>();
  for (const entry of entries) {
    if (entry.kind !== 'appended' || entry.nextOffset === null) continue;
    if (entry.nextOffset < (next.get(entry.shard) ?? 0n)) {
      const what = `the offset of shard ${entry.shard} went back to ${entry.nextOffset}`;
      found.push({ invariant: 'I4', sagaId: null, what });
    }
    next.set(entry.shard, entry.nextOffset);
  }
  for (const { shard, nextOffset } of shards) {
    const end = BigInt(inbox.filter(({ partition }) => partition === shard).length);
    if (nextOffset > end) {
      found.push({
        invariant: 'I4',
        sagaId: null,
        what: `shard ${shard} is at ${nextOffset} of ${end}`,
      });
    }
  }
  return found;
}
