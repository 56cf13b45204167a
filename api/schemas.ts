/**
 * The shapes of requests and answers, as zod schemas: what is checked, typed and documented is one thing.
 *
 * Guards that the OpenAPI document can't drift from the code. Ids are decimal strings, times are ISO
 * 8601 in UTC, unknown members of a request are refused by name.
 */
import { z } from 'zod';
import { ERRORS, type ErrorCode } from '../engine/core/errors.ts';
import type { SagaStatus } from '../engine/core/events.ts';
import { commandIdSchema, namespaceSchema, sagaIdSchema } from '../engine/core/wire.ts';
import { missingParts } from './missing.ts';

/** Component names and descriptions for OpenAPI. Our own, so that no definition's schemas get into it. */
export const docs = z.registry<{ id?: string; description?: string }>();

const MAX_BIGINT = 9_223_372_036_854_775_807n;
/**
 * The database keeps ids as bigint: a larger number can't be the id of anything. Zod also asks when the pattern
 * did not match, so this takes any text.
 */
export const fitsBigint = (id: string): boolean =>
  BigInt(/^\d+/.exec(id)?.[0] ?? '0') <= MAX_BIGINT;

export const sagaId = sagaIdSchema
  .refine(fitsBigint, 'an id below 2^63')
  .register(docs, { description: 'Snowflake id of the saga.' });
export const commandId = commandIdSchema.refine(fitsBigint, 'an id below 2^63').register(docs, {
  description: '`<sagaId>.<n>`, with `.c` for a compensation and `.s` for a settlement.',
});
export const namespace = namespaceSchema.register(docs, {
  description: 'Namespace; `default` on the paths that name none.',
});

const time = z.string().register(docs, { description: 'ISO 8601, UTC, with milliseconds.' });
const anyJson = z.unknown().register(docs, { description: 'Any JSON.' });
/** Visible ASCII: keys are sent on as message headers, which carry nothing else safely. */
const key = z.string().regex(/^[\x21-\x7e]{1,200}$/, '1 to 200 visible ASCII characters');

// ---------------------------------------------------------------- requests

export const idempotencyHeaders = z.looseObject({
  'idempotency-key': key.optional().register(docs, {
    description:
      'Makes the request repeatable: a repeat with the same key has the effect of one, as long as the saga is kept.',
  }),
});
export const startHeaders = idempotencyHeaders.extend({
  prefer: z.string().max(256).optional().register(docs, {
    description: '`wait=N`: wait up to N ≤ 60 seconds for the end before answering (RFC 7240).',
  }),
  traceparent: z.string().max(256).optional().register(docs, {
    description:
      'W3C trace context; carried into every command of the saga. An invalid one is ignored.',
  }),
});

export const attributes = z
  .record(
    z
      .string()
      .regex(
        /^[A-Za-z][A-Za-z0-9_-]{0,63}$/,
        'a letter, then letters, digits, "_" and "-", at most 64',
      ),
    z.union([z.string().max(1024), z.number(), z.boolean()]),
  )
  .refine((record) => Object.keys(record).length <= 32, 'at most 32 attributes')
  .register(docs, { description: 'Search attributes; at most 32.' });

const startFields = {
  definition: z.string().min(1).max(128),
  version: z
    .int()
    .positive()
    .optional()
    .register(docs, { description: 'Default: the newest version.' }),
  input: anyJson.register(docs, { description: "Fits the definition's input schema." }),
  businessKey: z.string().min(1).max(256).optional().register(docs, {
    description:
      'One saga a definition and key, as long as that saga is kept: a repeat of the request gets the same saga.',
  }),
  attributes: attributes.optional(),
};
export const startRequest = z.strictObject(startFields).register(docs, { id: 'StartRequest' });
export type StartRequest = z.output<typeof startRequest>;

export const MAX_BATCH_ITEMS = 1_000;
export const batchItem = z
  .strictObject({ ...startFields, idempotencyKey: key.optional() })
  .register(docs, { id: 'BatchItem' });
export const batchRequest = z
  .strictObject({ items: z.array(z.unknown()).min(1).max(MAX_BATCH_ITEMS) })
  .register(docs, { id: 'BatchEnvelope' });
/** What the document shows; the route checks items one by one, so that a bad one refuses only itself. */
export const batchRequestDocumented = z
  .strictObject({ items: z.array(batchItem).min(1).max(MAX_BATCH_ITEMS) })
  .register(docs, { id: 'BatchRequest' });

const by = z
  .string()
  .max(256)
  .default('api')
  .register(docs, { description: 'Who acts; kept in the log.' });
const reason = z.string().max(1024);
const optionalReason = reason.default('').register(docs, { description: 'Why; kept in the log.' });
const neededReason = reason.min(1).register(docs, { description: 'Why; kept in the log.' });

export const verbRequest = z
  .strictObject({ reason: optionalReason, by })
  .default({ reason: '', by: 'api' })
  .register(docs, { description: 'Body of an operator verb; may be left out.' });
export const skipRequest = z
  .strictObject({ reason: neededReason, by })
  .register(docs, { id: 'SkipRequest' });
export const resolveRequest = z
  .strictObject({
    reason: neededReason,
    by,
    output: anyJson.optional().register(docs, {
      description:
        "The step's output, as its contract has it; needed for a step and for a settlement.",
    }),
  })
  .register(docs, { id: 'ResolveRequest' });

export const failure = z
  .strictObject({
    code: z.string().min(1).max(128),
    message: z.string().max(4096).default(''),
    data: anyJson.optional(),
  })
  .register(docs, { id: 'Failure' });
export const completeRequest = z
  .discriminatedUnion('outcome', [
    z.strictObject({ outcome: z.literal('succeeded'), output: anyJson.optional() }),
    z.strictObject({ outcome: z.literal('rejected'), failure }),
    z.strictObject({ outcome: z.literal('failed'), failure, retryable: z.boolean().default(true) }),
  ])
  .register(docs, { id: 'CompleteRequest' });
export type CompleteRequest = z.output<typeof completeRequest>;

export const signalRequest = z.record(z.string(), z.unknown()).default({}).register(docs, {
  description: "The payload's fields, as the definition's signal schema has them.",
});

/** A whole number in a query. */
export const queryInt = (min: number, max: number) =>
  z.coerce.number().pipe(z.int().min(min).max(max));

export const limitQuery = queryInt(1, 200).default(50).register(docs, { description: '1 to 200.' });
export const waitQuery = queryInt(0, 60)
  .default(0)
  .register(docs, { description: 'Seconds to wait for the end, at most 60.' });
export const cursorQuery = z.string().min(1).max(256).optional();
export const noQuery = z.strictObject({});

// ---------------------------------------------------------------- answers

const STATUSES = [
  'running',
  'compensating',
  'paused',
  'stuck',
  'completed',
  'compensated',
] as const satisfies readonly SagaStatus[];
export const sagaStatus = z.enum(STATUSES);
export const links = z
  .record(z.string(), z.string())
  .register(docs, { description: 'Paths, by relation.' });
const answeredFailure = z.object({ code: z.string(), message: z.string() }).nullable();

export const sagaAnswer = z
  .object({
    sagaId,
    namespace,
    definition: z.string(),
    version: z.int(),
    status: sagaStatus,
    state: z
      .string()
      .register(docs, { description: 'Path of the active state; regions joined by ",".' }),
    businessKey: z.string().nullable(),
    attributes: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
    streamVersion: z.int(),
    startedAt: time,
    updatedAt: time,
    endedAt: time.nullable(),
    pivotPassed: z.boolean(),
    failure: answeredFailure,
    output: anyJson,
    links,
  })
  .register(docs, { id: 'Saga' });
export type SagaAnswer = z.output<typeof sagaAnswer>;

export const startAnswer = z
  .object({
    sagaId,
    namespace,
    definition: z.string(),
    version: z.int(),
    status: z.enum(['accepted', ...STATUSES]),
    output: anyJson.optional(),
    failure: answeredFailure.optional(),
    links,
  })
  .register(docs, { id: 'Started' });
export type StartAnswer = z.output<typeof startAnswer>;

export const resultAnswer = z
  .object({ sagaId, status: sagaStatus, output: anyJson, failure: answeredFailure, links })
  .register(docs, { id: 'Result' });
export type ResultAnswer = z.output<typeof resultAnswer>;

export const acceptedAnswer = z
  .object({ sagaId, status: z.literal('accepted'), inputId: z.string(), links })
  .register(docs, { id: 'Accepted' });
export type AcceptedAnswer = z.output<typeof acceptedAnswer>;

export const historyEvent = z
  .object({
    streamVersion: z.int(),
    at: time,
    type: z.string(),
    data: z.record(z.string(), anyJson),
  })
  .register(docs, { id: 'HistoryEvent' });
export type HistoryEvent = z.output<typeof historyEvent>;
export const historyAnswer = z
  .object({ sagaId, items: z.array(historyEvent), next: z.int().nullable(), links })
  .register(docs, { id: 'History' });

export const sagaListAnswer = z
  .object({
    items: z.array(sagaAnswer),
    next: z.string().nullable(),
    links,
    missing: missingParts,
  })
  .register(docs, { id: 'SagaList' });

export const issue = z
  .object({ path: z.string(), message: z.string() })
  .register(docs, { id: 'Issue' });
export const problem = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    instance: z.string().optional(),
    code: z.enum(Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]]),
    requestId: z.string().optional(),
    issues: z.array(issue).optional(),
  })
  .register(docs, { id: 'Problem', description: 'RFC 9457; docs/ERRORS.md has every code.' });

export const batchAnswer = z
  .object({
    accepted: z.int(),
    refused: z.int(),
    items: z.array(
      z.union([
        startAnswer.extend({ index: z.int(), replayed: z.boolean() }),
        z.object({ index: z.int(), status: z.literal('refused'), problem }),
      ]),
    ),
  })
  .register(docs, { id: 'BatchResult' });
export type BatchAnswer = z.output<typeof batchAnswer>;

const jsonSchemaDocument = z
  .record(z.string(), anyJson)
  .register(docs, { description: 'JSON Schema 2020-12.' });
const stepAnswer = z.object({
  step: z.string(),
  kind: z.enum(['step', 'compensateAll']),
  class: z.string().nullable(),
  command: z.string().nullable(),
  input: jsonSchemaDocument.nullable(),
  output: jsonSchemaDocument.nullable(),
  rejections: z.record(z.string(), jsonSchemaDocument),
  timeoutMs: z.number().nullable(),
  heartbeatTimeoutMs: z.number().nullable(),
  maxAttempts: z.int().nullable(),
  compensateWith: z.string().nullable(),
});
export const definitionBrief = z
  .object({
    name: z.string(),
    version: z.int(),
    versions: z.array(z.int()),
    description: z.string(),
    links,
  })
  .register(docs, { id: 'DefinitionBrief' });
export const definitionAnswer = z
  .object({
    name: z.string(),
    version: z.int(),
    versions: z.array(z.int()),
    description: z.string(),
    hash: z.string(),
    services: z.array(z.string()),
    input: jsonSchemaDocument,
    signals: z.record(z.string(), jsonSchemaDocument),
    steps: z.array(stepAnswer),
    machine: z
      .record(z.string(), anyJson)
      .register(docs, { description: 'The state tree; functions by name.' }),
    links,
  })
  .register(docs, { id: 'Definition' });
export type DefinitionAnswer = z.output<typeof definitionAnswer>;

export const deadLetterAnswer = z
  .object({
    id: z.string(),
    topic: z.string(),
    partition: z.int(),
    offset: z.string(),
    key: z.string().nullable(),
    headers: z.record(z.string(), z.string()),
    value: z.string().nullable(),
    code: z.string(),
    reason: z.string(),
    at: time,
    redrivenAt: time.nullable(),
    links,
  })
  .register(docs, { id: 'DeadLetter' });
export const deadLetterListAnswer = z
  .object({
    items: z.array(deadLetterAnswer),
    next: z.string().nullable(),
    links,
    missing: missingParts,
  })
  .register(docs, { id: 'DeadLetterList' });

export const shardsAnswer = z
  .object({
    shards: z.int(),
    items: z.array(
      z.object({
        shard: z.int(),
        epoch: z.int(),
        owner: z.string().nullable(),
        leaseExpiresAt: time.nullable(),
        nextOffset: z.string(),
        nextSeq: z.string(),
        publishedSeq: z.string(),
      }),
    ),
    missing: missingParts,
  })
  .register(docs, { id: 'Shards' });
