/**
 * The wire: what is put on the bus, as JSON that any language can read and write (docs/WIRE.md).
 *
 * Guards that nothing unparsed reaches the core: every body is checked here, with limits on size and
 * depth, and keys that change prototypes are refused. Envelope: CloudEvents 1.0, Kafka binary mode.
 */
import { z } from 'zod';
import { SagaxError } from './errors.ts';
import { FORBIDDEN_KEYS, isNestedBeyond, MAX_JSON_DEPTH, type Json } from './json.ts';

/** Largest body accepted or sent, in bytes of UTF-8; below Kafka's default message limit of 1 MiB. */
export const MAX_BODY_BYTES = 900_000;

export const sagaIdSchema = z
  .string()
  .regex(/^[1-9][0-9]{0,18}$/, 'a Snowflake id in decimal digits');
export const namespaceSchema = z
  .string()
  .regex(
    /^[a-z][a-z0-9-]{0,62}$/,
    'lower-case letters, digits and "-", at most 63, a letter first',
  );
/** `<sagaId>.<n>` for a step, with `.c` for its compensation and `.s` for its settlement. */
export const commandIdSchema = z.string().regex(/^[1-9][0-9]{0,18}\.[1-9][0-9]{0,8}(\.[cs])?$/);
export const commandNameSchema = z
  .string()
  .regex(
    /^[a-z][a-z0-9-]{0,62}\.[a-z][a-z0-9-]{0,126}$/,
    '"service.command" in lower-case kebab case',
  );
/** Any JSON; unsafe keys and depth are refused by `parseBody` before a schema looks. */
export const jsonSchema = z
  .any()
  .transform((value): Json => (value === undefined ? null : (value as Json)));

export const failureSchema = z.strictObject({
  code: z.string().min(1).max(128),
  message: z.string().max(4096).default(''),
  data: jsonSchema.optional(),
});

/** What a participant is asked. Topic `<prefix>.commands.<service>`, key = saga id. */
export const commandBodySchema = z.object({
  commandId: commandIdSchema,
  sagaId: sagaIdSchema,
  namespace: namespaceSchema,
  /** The contract's name: of the step for `do` and `settle`, of its compensation for `compensate`. */
  command: commandNameSchema,
  op: z.enum(['do', 'compensate', 'settle']),
  /** Command id of the step that is compensated or settled. */
  of: commandIdSchema.optional(),
  /** 1, 2, 3…; the command id is the same over all attempts (I3). */
  attempt: z.int().positive(),
  input: jsonSchema,
  /** The step's deadline, ms since the epoch, when it has one. */
  deadlineAt: z.number().optional(),
  replyTo: z.object({ topic: z.string(), partition: z.int().nonnegative() }),
});
export type CommandBody = z.infer<typeof commandBodySchema>;

const reply = {
  commandId: commandIdSchema,
  sagaId: sagaIdSchema,
  namespace: namespaceSchema.default('default'),
};
const attempt = z.int().positive().default(1);

/** What became of a command. */
export const replyBodySchema = z.discriminatedUnion('outcome', [
  z.object({ ...reply, attempt, outcome: z.literal('succeeded'), output: jsonSchema }),
  /** A business "no": nothing was changed. Compensate, never retry. Not for compensations. */
  z.object({ ...reply, attempt, outcome: z.literal('rejected'), failure: failureSchema }),
  /** Anything unmodelled: the engine tries again, unless `retryable` is false. */
  z.object({
    ...reply,
    attempt,
    outcome: z.literal('failed'),
    failure: failureSchema,
    retryable: z.boolean().default(true),
  }),
  /** Accepted; the answer comes later, by REST or by another reply. */
  z.object({ ...reply, attempt, outcome: z.literal('pending') }),
  /** Still at work: moves the step's heartbeat deadline. */
  z.object({ ...reply, attempt, outcome: z.literal('heartbeat'), details: jsonSchema.optional() }),
  /** Only to a `settle`: the step never ran, and the barrier now keeps it from running. */
  z.object({ ...reply, attempt, outcome: z.literal('neverRan') }),
  /** To a `do` that came after its compensation or settlement: it was not run. */
  z.object({ ...reply, attempt, outcome: z.literal('superseded') }),
]);
export type ReplyBody = z.infer<typeof replyBodySchema>;

const target = { sagaId: sagaIdSchema, namespace: namespaceSchema };

export const startBodySchema = z.object({
  ...target,
  definition: z.string().min(1).max(128),
  definitionVersion: z.int().positive(),
  input: jsonSchema,
  businessKey: z.string().min(1).max(256).optional(),
  attributes: z
    .record(z.string().max(64), z.union([z.string().max(1024), z.number(), z.boolean()]))
    .optional(),
  traceparent: z.string().max(64).optional(),
});
export const signalBodySchema = z.object({
  ...target,
  signalId: z.string().min(1).max(256),
  name: z.string().min(1).max(128),
  payload: jsonSchema,
});
export const cancelBodySchema = z.object({
  ...target,
  requestId: z.string().min(1).max(256),
  reason: z.string().max(1024),
  by: z.string().max(256),
});
export const operatorBodySchema = z.object({
  ...target,
  requestId: z.string().min(1).max(256),
  by: z.string().max(256),
  reason: z.string().max(1024),
  action: z.discriminatedUnion('verb', [
    z.object({ verb: z.literal('pause') }),
    z.object({ verb: z.literal('resume') }),
    z.object({ verb: z.literal('retry'), commandId: commandIdSchema.optional() }),
    z.object({
      verb: z.literal('resolve'),
      commandId: commandIdSchema,
      output: jsonSchema.optional(),
    }),
    z.object({ verb: z.literal('skip'), commandId: commandIdSchema }),
  ]),
});

/** An input for one saga, as it stands in the inbox topic (key = saga id). */
export type InboxInput =
  | { type: 'start'; body: z.infer<typeof startBodySchema> }
  /** `service`: whose worker wrote it, as its `ce_source` says; not there when somebody else did. */
  | { type: 'reply'; body: ReplyBody; service?: string }
  | { type: 'signal'; body: z.infer<typeof signalBodySchema> }
  | { type: 'cancel'; body: z.infer<typeof cancelBodySchema> }
  | { type: 'operator'; body: z.infer<typeof operatorBodySchema> };

/** `ce_type` of each kind of message. A number in it changes when a reader of the old one would err. */
export const CE_TYPES = {
  command: 'sagax.command.v1',
  start: 'sagax.start.v1',
  reply: 'sagax.reply.v1',
  signal: 'sagax.signal.v1',
  cancel: 'sagax.cancel.v1',
  operator: 'sagax.operator.v1',
  domainEvent: 'sagax.domain-event.v1',
  /** A participant's dead letter, told to the engine (letters.ts). */
  deadLetter: 'sagax.dead-letter.v1',
} as const;

const INBOX_SCHEMAS = {
  [CE_TYPES.start]: { type: 'start', schema: startBodySchema },
  [CE_TYPES.reply]: { type: 'reply', schema: replyBodySchema },
  [CE_TYPES.signal]: { type: 'signal', schema: signalBodySchema },
  [CE_TYPES.cancel]: { type: 'cancel', schema: cancelBodySchema },
  [CE_TYPES.operator]: { type: 'operator', schema: operatorBodySchema },
} as const;

/** A message before it goes to the bus, or after it came: headers are strings, the value is UTF-8 JSON. */
export interface WireMessage {
  key: string;
  headers: { [name: string]: string };
  value: string;
}

/** Envelope of one message. `id` names the message over all its publications (CloudEvents `id`). */
export interface Envelope {
  type: string;
  id: string;
  source: string;
  /** ms since the epoch. */
  at: number;
  sagaId: string;
  traceparent?: string | undefined;
}

/** @returns the message ready for the bus. @throws SagaxError PAYLOAD_REFUSED above MAX_BODY_BYTES. */
export function encodeMessage(envelope: Envelope, body: unknown): WireMessage {
  const value = JSON.stringify(body);
  if (value.length > MAX_BODY_BYTES / 4 && byteLength(value) > MAX_BODY_BYTES) {
    throw new SagaxError(
      'PAYLOAD_REFUSED',
      `A message of ${byteLength(value)} bytes for saga ${envelope.sagaId} is over the limit of ` +
        `${MAX_BODY_BYTES} bytes. Keep large payloads elsewhere and send a reference (claim check).`,
    );
  }
  const headers = envelopeHeaders(envelope);
  headers['ce_subject'] = envelope.sagaId;
  if (envelope.traceparent !== undefined) headers['ce_traceparent'] = envelope.traceparent;
  return { key: envelope.sagaId, headers, value };
}

/** What every message of ours carries, of a saga or not. */
export function envelopeHeaders({
  type,
  id,
  source,
  at,
}: Pick<Envelope, 'type' | 'id' | 'source' | 'at'>): { [name: string]: string } {
  return {
    'content-type': 'application/json',
    ce_specversion: '1.0',
    ce_type: type,
    ce_id: id,
    ce_source: source,
    ce_time: new Date(at).toISOString(),
  };
}

/** @throws SagaxError MESSAGE_INVALID or PAYLOAD_REFUSED: the message is to be parked as a dead letter. */
export function decodeInbox(message: {
  headers: { [name: string]: string };
  value: string | null;
}): InboxInput {
  const type = message.headers['ce_type'];
  // Own keys only: a header that says "toString" must not find a method.
  const known = type !== undefined && Object.hasOwn(INBOX_SCHEMAS, type);
  const entry = known ? INBOX_SCHEMAS[type as keyof typeof INBOX_SCHEMAS] : undefined;
  if (entry === undefined) {
    throw new SagaxError(
      'MESSAGE_INVALID',
      `ce_type is ${type === undefined ? 'missing' : `"${type}"`}; the inbox takes ${Object.keys(INBOX_SCHEMAS).join(', ')}.`,
    );
  }
  const input = { type: entry.type, body: parseWith(entry.schema, message.value) } as InboxInput;
  if (input.type !== 'reply') return input;
  const service = workerIn(message.headers['ce_source']);
  return service === undefined ? input : { ...input, service };
}

const WORKER_SOURCE = '/sagax/workers/';

/** `ce_source` of what a service's worker writes. */
export function workerSource(service: string): string {
  return `${WORKER_SOURCE}${service}`;
}

function workerIn(source: string | undefined): string | undefined {
  return source?.startsWith(WORKER_SOURCE) === true
    ? source.slice(WORKER_SOURCE.length)
    : undefined;
}

/** @throws SagaxError MESSAGE_INVALID or PAYLOAD_REFUSED. */
export function decodeCommand(message: {
  headers: { [name: string]: string };
  value: string | null;
}): CommandBody {
  if (message.headers['ce_type'] !== CE_TYPES.command) {
    throw new SagaxError('MESSAGE_INVALID', `ce_type must be ${CE_TYPES.command}.`);
  }
  return parseWith(commandBodySchema, message.value);
}

function parseWith<S extends z.ZodType>(schema: S, value: string | null): z.output<S> {
  const result = schema.safeParse(parseBody(value));
  if (!result.success) throw new SagaxError('MESSAGE_INVALID', z.prettifyError(result.error));
  return result.data;
}

/** JSON text to a value that is safe to walk and to assign from. @throws SagaxError as above. */
export function parseBody(value: string | null): Json {
  if (value === null) throw new SagaxError('MESSAGE_INVALID', 'The message has no body.');
  if (value.length > MAX_BODY_BYTES / 4 && byteLength(value) > MAX_BODY_BYTES) {
    throw new SagaxError('PAYLOAD_REFUSED', `The body is over ${MAX_BODY_BYTES} bytes.`);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch (error) {
    throw new SagaxError('MESSAGE_INVALID', `The body is not JSON: ${(error as Error).message}`);
  }
  assertSafeJson(parsed);
  return parsed as Json;
}

/**
 * Refuses keys that change prototypes, nesting beyond MAX_JSON_DEPTH, numbers that overflow, and texts and keys that jsonb
 * can't hold (NUL, halves of surrogate pairs): one such text would make a shard's whole batch fail to append, over and over. No recursion.
 */
export function assertSafeJson(root: unknown): void {
  const rest: { value: unknown; depth: number }[] = [{ value: root, depth: 0 }];
  for (let next = rest.pop(); next !== undefined; next = rest.pop()) {
    const { value, depth } = next;
    if (typeof value === 'string') assertKeepable(value);
    if (value === Infinity || value === -Infinity) {
      throw new SagaxError(
        'PAYLOAD_REFUSED',
        'The body has a number beyond 1.8e308; send such a number as a text.',
      );
    }
    if (typeof value !== 'object' || value === null) continue;
    if (depth >= MAX_JSON_DEPTH) {
      throw new SagaxError(
        'PAYLOAD_REFUSED',
        `The body is nested deeper than ${MAX_JSON_DEPTH} levels.`,
      );
    }
    for (const key of Object.keys(value)) {
      if (FORBIDDEN_KEYS.has(key) && !Array.isArray(value)) {
        throw new SagaxError(
          'PAYLOAD_REFUSED',
          `The body has the key "${key}", which is never accepted.`,
        );
      }
      assertKeepable(key);
      rest.push({ value: (value as { [key: string]: unknown })[key], depth: depth + 1 });
    }
  }
}

function assertKeepable(text: string): void {
  if (text.includes('\0') || !text.isWellFormed()) {
    throw new SagaxError(
      'PAYLOAD_REFUSED',
      'The body has a text with a NUL character or half a surrogate pair in it.',
    );
  }
}

/** Room that the envelope of a command takes beside its input, in bytes; generous. */
const ENVELOPE_BYTES = 4_000;

/** Levels that are left for what a body carries. */
const MAX_CARRIED_LEVELS = MAX_JSON_DEPTH - 1;

/** Why `value` does not fit into one message beside its envelope, and the remedy; null if it does. */
export function whyUnsendable(value: Json): string | null {
  const text = JSON.stringify(value);
  const limit = MAX_BODY_BYTES - ENVELOPE_BYTES;
  if (text.length > limit / 4 && byteLength(text) > limit)
    return 'is too large for one message. Keep the large part elsewhere and pass a reference (claim check).';
  // A level takes two characters at least, so most values need not be walked.
  return text.length > 2 * MAX_CARRIED_LEVELS && isNestedBeyond(value, MAX_CARRIED_LEVELS)
    ? `is nested deeper than ${MAX_CARRIED_LEVELS} levels. Make it flatter, or pass the deep part as a text.`
    : null;
}

const encoder = new TextEncoder();
function byteLength(text: string): number {
  return encoder.encode(text).length;
}

/** The names of a deployment's topics, under its prefix. */
export function topicNames(prefix: string): {
  inbox: string;
  domainEvents: string;
  commands: (service: string) => string;
} {
  return {
    inbox: `${prefix}.inbox`,
    domainEvents: `${prefix}.events`,
    commands: (service) => `${prefix}.commands.${service}`,
  };
}

/** The service that a contract's name `service.command` belongs to. */
export function serviceOf(commandName: string): string {
  return commandName.slice(0, commandName.indexOf('.'));
}
