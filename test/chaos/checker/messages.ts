/** Checks of what went over the bus: I3, I4, I10. */
import { identitiesOf, inputOf, leavesTrace, nameOf } from './inputs.ts';
import {
  canonical,
  isInjected,
  isTerminal,
  numberIn,
  partitionOf,
  streamsOf,
  textIn,
  type CheckOptions,
  type EventBody,
  type Evidence,
  type MessageRow,
  type Violation,
} from './evidence.ts';

/** What the log asks for under one command id. */
interface Requested {
  sagaId: string;
  command: string;
  op: string;
  input: string;
  lastAttempt: number;
}

const REQUESTS: { readonly [type: string]: string } = {
  StepRequested: 'do',
  SettlementRequested: 'settle',
  CompensationRequested: 'compensate',
};

function commandsOf(evidence: Evidence): MessageRow[] {
  const prefix = `${evidence.topicPrefix}.commands.`;
  return evidence.messages.filter(({ topic }) => topic.startsWith(prefix));
}

/** I3: a command's id is fixed by its request; every attempt and republication carries it, with the same content. */
export function checkI3(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const requests = new Map<string, Requested>();
  for (const [sagaId, events] of streamsOf(evidence)) {
    const add = (what: string): void => void found.push({ invariant: 'I3', sagaId, what });
    for (const { event } of events) requestedBy(event, sagaId, requests, add);
  }
  for (const message of commandsOf(evidence)) {
    if (!isInjected(message)) found.push(...publishedWrongly(message, requests));
  }
  return found;
}

function requestedBy(
  event: EventBody,
  sagaId: string,
  requests: Map<string, Requested>,
  complain: (what: string) => void,
): void {
  const op = REQUESTS[event.type];
  if (op !== undefined) {
    const id = textIn(event, 'commandId');
    if (requests.has(id)) complain(`the id ${id} was requested twice`);
    if (!id.startsWith(`${sagaId}.`)) complain(`the id ${id} does not name its saga`);
    const input = canonical(op === 'settle' ? null : event['input']);
    requests.set(id, { sagaId, command: textIn(event, 'command'), op, input, lastAttempt: 1 });
  }
  if (event.type !== 'CommandRetried') return;
  const [id, attempt] = [textIn(event, 'commandId'), numberIn(event, 'attempt')];
  const known = requests.get(id);
  if (known === undefined)
    return complain(`attempt ${attempt} has the id ${id}, never requested before`);
  if (known.command !== event['command'] || known.op !== event['op'])
    complain(`attempt ${attempt} of ${id} is another command than was requested`);
  if (known.input !== canonical(event['input'] ?? null))
    complain(`attempt ${attempt} of ${id} has another input`);
  if (attempt !== known.lastAttempt + 1)
    complain(`attempt ${attempt} of ${id} follows attempt ${known.lastAttempt}`);
  known.lastAttempt = attempt;
}

function publishedWrongly(
  message: MessageRow,
  requests: ReadonlyMap<string, Requested>,
): Violation[] {
  const body = JSON.parse(message.value ?? 'null') as { [field: string]: unknown };
  const [id, attempt] = [String(body['commandId']), Number(body['attempt'])];
  const found: Violation[] = [];
  const add = (what: string): void =>
    void found.push({ invariant: 'I3', sagaId: message.key, what });
  if (message.headers['ce_id'] !== `${id}#${attempt}`)
    add(`the message for ${id} attempt ${attempt} is named ${message.headers['ce_id']}`);
  const request = requests.get(id);
  if (request === undefined) add(`${id} was published, an id that no event gave out`);
  else if (
    request.command !== body['command'] ||
    request.op !== body['op'] ||
    request.sagaId !== body['sagaId'] ||
    request.input !== canonical(body['input'] ?? null)
  )
    add(`${id} was published as another command than it was requested as`);
  else if (attempt > request.lastAttempt) add(`attempt ${attempt} of ${id} was never asked for`);
  return found;
}

/** I10: every logged command and domain event is published at least once, and nothing else is. */
export function checkI10(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const published = new Map<string, MessageRow>();
  const eventsTopic = `${evidence.topicPrefix}.events`;
  const own = [
    ...commandsOf(evidence),
    ...evidence.messages.filter((m) => m.topic === eventsTopic),
  ];
  for (const message of own)
    if (!isInjected(message)) published.set(message.headers['ce_id'] ?? '', message);
  const logged = new Set<string>();
  for (const [sagaId, events] of streamsOf(evidence)) {
    for (const { event, streamVersion } of events) {
      const wanted = outgoing(event, sagaId, streamVersion, evidence.topicPrefix);
      if (wanted === null) continue;
      logged.add(wanted.id);
      const what = misplaced(published.get(wanted.id), wanted, sagaId, evidence);
      if (what !== null)
        found.push({ invariant: 'I10', sagaId, what: `${event.type} at ${streamVersion} ${what}` });
    }
  }
  for (const [id, { topic, key }] of published) {
    if (logged.has(id)) continue;
    const what = `${id} was published to ${topic}, but the log has no event for it`;
    found.push({ invariant: 'I10', sagaId: key, what });
  }
  for (const { shard, nextSeq, publishedSeq } of evidence.shards) {
    if (publishedSeq === nextSeq - 1) continue;
    const what = `shard ${shard} has ${nextSeq - 1} events, and published up to ${publishedSeq}`;
    found.push({ invariant: 'I10', sagaId: null, what });
  }
  return found;
}

function misplaced(
  message: MessageRow | undefined,
  wanted: { id: string; topic: string },
  sagaId: string,
  { commandPartitions, topicPrefix }: Evidence,
): string | null {
  if (message === undefined) return `was never published (${wanted.id})`;
  if (message.topic !== wanted.topic) return `was published to ${message.topic} (${wanted.id})`;
  if (message.key !== sagaId) return `was published under the key ${message.key} (${wanted.id})`;
  const isCommand = message.topic !== `${topicPrefix}.events`;
  if (isCommand && message.partition !== partitionOf(sagaId, commandPartitions))
    return `was published to partition ${message.partition} (${wanted.id})`;
  return null;
}

function outgoing(
  event: EventBody,
  sagaId: string,
  streamVersion: number,
  prefix: string,
): { id: string; topic: string } | null {
  if (event.type === 'DomainEventEmitted')
    return { id: `${sagaId}/${streamVersion}`, topic: `${prefix}.events` };
  const isRetry = event.type === 'CommandRetried';
  if (REQUESTS[event.type] === undefined && !isRetry) return null;
  const attempt = isRetry ? numberIn(event, 'attempt') : 1;
  const service = textIn(event, 'command').split('.')[0];
  return {
    id: `${textIn(event, 'commandId')}#${attempt}`,
    topic: `${prefix}.commands.${service}`,
  };
}

/** I4: each input is applied at most once, and each accepted one at least once: nothing acknowledged is lost. */
export function checkI4(evidence: Evidence, options: CheckOptions = {}): Violation[] {
  return [
    ...appliedTwice(evidence),
    ...keysReused(evidence),
    ...neverApplied(evidence),
    ...acknowledgedAndLost(evidence),
    ...positionsOff(evidence),
    ...parkedWrongly(evidence, options),
  ];
}

function appliedTwice(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streamsOf(evidence)) {
    const seen = new Set<string>();
    for (const { event, streamVersion } of events) {
      for (const id of identitiesOf(event)) {
        if (seen.has(id))
          found.push({ invariant: 'I4', sagaId, what: `${id} again at version ${streamVersion}` });
        seen.add(id);
      }
    }
  }
  return found;
}

function keysReused({ accepted }: Evidence): Violation[] {
  const sagas = new Map<string, Set<string>>();
  for (const { kind, key, sagaId } of accepted) {
    if (kind === 'start') sagas.set(key, (sagas.get(key) ?? new Set()).add(sagaId));
  }
  return [...sagas]
    .filter(([, ids]) => ids.size > 1)
    .map(([key, ids]) => ({
      invariant: 'I4',
      sagaId: null,
      what: `the start key ${key} was answered with the sagas ${[...ids].join(', ')}`,
    }));
}

function inboxOf({ messages, topicPrefix }: Evidence): MessageRow[] {
  return messages.filter(({ topic }) => topic === `${topicPrefix}.inbox`);
}

/** Every message in the inbox is behind the shard's position, and left a trace or came too late to. */
function neverApplied(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const streams = streamsOf(evidence);
  const position = new Map(evidence.shards.map(({ shard, nextOffset }) => [shard, nextOffset]));
  const parked = new Set(evidence.deadLetters.map((one) => `${one.partition}/${one.offset}`));
  for (const message of inboxOf(evidence)) {
    const { partition, offset } = message;
    const place = `${partition}/${offset}`;
    if (offset >= (position.get(partition) ?? 0)) {
      const what = `the message at ${place} was never read`;
      found.push({ invariant: 'I4', sagaId: message.key, what });
      continue;
    }
    const input = inputOf(message);
    if (input === null || parked.has(place)) continue;
    // In another shard's partition it is passed on, and its copy in the right one counts.
    if (partition !== partitionOf(input.sagaId, evidence.shards.length)) continue;
    const events = streams.get(input.sagaId) ?? [];
    if (events.some(({ event }) => isTerminal(event.type) || leavesTrace(input, event))) continue;
    const what = `the ${nameOf(input)} at ${place} left no trace in the log`;
    found.push({ invariant: 'I4', sagaId: input.sagaId, what });
  }
  return found;
}

/** What got a 2xx is in the inbox; and a start has its stream. */
function acknowledgedAndLost(evidence: Evidence): Violation[] {
  const inputs = inboxOf(evidence).flatMap((message) => inputOf(message) ?? []);
  const present = new Set(inputs.map((input) => `${input.type} ${input.sagaId} ${input.id}`));
  const started = new Set(evidence.events.map(({ sagaId }) => sagaId));
  return evidence.accepted.flatMap(({ kind, sagaId, id, key }): Violation[] => {
    const name = `${kind} ${sagaId} ${id ?? sagaId}`;
    if (!present.has(name)) {
      const what = `acknowledged and lost: the ${kind} with the key ${key} is not in the inbox`;
      return [{ invariant: 'I4', sagaId, what }];
    }
    if (started.has(sagaId)) return [];
    return [{ invariant: 'I4', sagaId, what: `acknowledged and lost: ${key} has no event` }];
  });
}

/** A shard can't have read more than there is. */
function positionsOff(evidence: Evidence): Violation[] {
  const ends = new Map<number, number>();
  for (const { partition, offset } of inboxOf(evidence))
    ends.set(partition, Math.max(ends.get(partition) ?? 0, offset + 1));
  return evidence.shards
    .filter(({ shard, nextOffset }) => nextOffset > (ends.get(shard) ?? 0))
    .map(({ shard, nextOffset }) => ({
      invariant: 'I4',
      sagaId: null,
      what: `shard ${shard} is at offset ${nextOffset} of an inbox that ends at ${ends.get(shard) ?? 0}`,
    }));
}

function parkedWrongly({ deadLetters }: Evidence, options: CheckOptions): Violation[] {
  return deadLetters
    .filter((letter) => options.allowDeadLetter?.(letter) !== true)
    .map(({ topic, partition, offset, code, reason }) => ({
      invariant: 'I4',
      sagaId: null,
      what: `${topic}/${partition}/${offset} was parked as a dead letter: ${code}, ${reason}`,
    }));
}
