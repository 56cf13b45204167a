/** Inputs of sagas as the inbox has them, and what in a stream shows that one was taken. */
import { stepOf, type EventBody, type MessageRow } from './evidence.ts';

export interface Input {
  type: 'start' | 'reply' | 'signal' | 'cancel' | 'operator';
  sagaId: string;
  /** The saga for a start, the command for a reply, else the id of the signal or request. */
  id: string;
  outcome: string | null;
}

/** @returns null for what is no input of a saga: garbage, or a type unknown here */
export function inputOf(message: MessageRow): Input | null {
  const type = /^sagax\.(start|reply|signal|cancel|operator)\.v1$/.exec(
    message.headers['ce_type'] ?? '',
  )?.[1] as Input['type'] | undefined;
  if (type === undefined || message.value === null) return null;
  let body: { [field: string]: unknown } | null;
  try {
    body = JSON.parse(message.value) as { [field: string]: unknown } | null;
  } catch {
    return null;
  }
  if (typeof body !== 'object' || body === null) return null;
  const field = { start: 'sagaId', reply: 'commandId', signal: 'signalId' }[type as string];
  const [sagaId, id, outcome] = [body['sagaId'], body[field ?? 'requestId'], body['outcome']];
  if (typeof sagaId !== 'string' || typeof id !== 'string') return null;
  return { type, sagaId, id, outcome: typeof outcome === 'string' ? outcome : null };
}

export function nameOf({ type, id, outcome }: Input): string {
  return outcome === null ? `${type} ${id}` : `${type} ${id} (${outcome})`;
}

/** Names under which an input may stand in a stream once. */
export function identitiesOf(event: EventBody): string[] {
  const id = String(event['commandId']);
  switch (event.type) {
    case 'SagaStarted':
      return ['SagaStarted'];
    case 'SignalReceived':
      return [`SignalReceived ${String(event['signalId'])}`];
    case 'CancelRequested':
    case 'OperatorActed':
      return [`${event.type} ${String(event['requestId'])}`];
    case 'StepSucceeded':
    case 'StepRejected':
      return [`an answer to ${id}`];
    case 'StepSettled':
    case 'CompensationSucceeded':
      return [`${event.type} ${id}`];
    case 'StepFailed':
    case 'CompensationFailed':
    case 'SettlementFailed':
    case 'RetryDue':
      return [`${event.type} ${id}#${String(event['attempt'])}`];
    case 'InputDeferred': {
      const cause = causeOf(event);
      const once = /^(SignalReceived|CancelRequested|OperatorActed|StepSucceeded|StepRejected)$/;
      if (cause === null || !once.test(cause.type)) return [];
      return identitiesOf(cause).map((name) => `InputDeferred: ${name}`);
    }
    default:
      return [];
  }
}

function causeOf(event: EventBody): EventBody | null {
  const cause = event['cause'] as EventBody | undefined;
  return cause ?? null;
}

/** Whether this event shows that the input was taken, or that nothing waited for it any more. */
export function leavesTrace(input: Input, event: EventBody): boolean {
  if (event.type === 'InputDeferred' || event.type === 'InputFaulted') {
    const cause = causeOf(event);
    return cause !== null && leavesTrace(input, cause);
  }
  switch (input.type) {
    case 'start':
      return event.type === 'SagaStarted';
    case 'signal':
      return event.type === 'SignalReceived' && event['signalId'] === input.id;
    case 'cancel':
      return event.type === 'CancelRequested' && event['requestId'] === input.id;
    case 'operator':
      return event.type === 'OperatorActed' && event['requestId'] === input.id;
    case 'reply':
      return closesCall(input, event);
  }
}

const CLOSING = new Set([
  'StepSucceeded',
  'StepRejected',
  'StepGivenUp',
  'StepSuperseded',
  'StepSettled',
  'CompensationSucceeded',
  'CompensationFailed',
]);

/** Only final answers must leave a trace; failures and heartbeats of old attempts may be passed over. */
function closesCall(reply: Input, event: EventBody): boolean {
  if (reply.outcome !== 'succeeded' && reply.outcome !== 'rejected') return true;
  const action = event['action'] as { commandId?: string } | undefined;
  const id = event.type === 'OperatorActed' ? action?.commandId : event['commandId'];
  if (typeof id !== 'string' || stepOf(id) !== stepOf(reply.id)) return false;
  if (event.type === 'OperatorActed') return true;
  if (event.type === 'StepFailed') return event['retryable'] === false;
  if (reply.id.endsWith('.c')) return event.type.startsWith('Compensation');
  if (reply.id.endsWith('.s')) return event.type === 'StepSettled';
  return CLOSING.has(event.type);
}
