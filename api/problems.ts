/**
 * Problem details (RFC 9457): the one place where an error becomes an HTTP answer.
 *
 * Guards that every failure has a stable code and a status that is in the table here (docs/ERRORS.md
 * is compared with it by a test), and that nothing of a defect's inside leaves the process: unknown
 * errors are INTERNAL, logged under the request's id, which the caller gets.
 */
import type { FastifyError } from 'fastify';
import type { z } from 'zod';
import { ERRORS, SagaxError, type ErrorCode, type ErrorKind } from '../engine/core/errors.ts';

/**
 * Status of a kind. `terminal` codes are found in a saga's events; `definition` and `config` ones stop a process
 * before it serves: they are never the answer to a request.
 */
const STATUS_OF_KIND: { readonly [kind in ErrorKind | 'terminal']: readonly number[] } = {
  invalid: [422],
  notFound: [404],
  conflict: [409],
  retryable: [503],
  definition: [],
  config: [],
  bug: [500],
  denied: [403],
  terminal: [],
};

/** Codes whose status differs from their kind's; the first is the usual one. */
const STATUS_OF_CODE: { readonly [code in ErrorCode]?: readonly number[] } = {
  /** 400: a path, query or header value, or text that is not JSON. 408: came too slowly. 415: not `application/json`. */
  INPUT_INVALID: [422, 400, 408, 415],
  /** 400: unsafe keys, texts or depth. 413: size. 414 and 431: address and headers. */
  PAYLOAD_REFUSED: [400, 413, 414, 431],
  CURSOR_INVALID: [400],
  UNAUTHENTICATED: [401],
  RATE_LIMITED: [429],
  /** A definition's schema gave what JSON can't carry: the author's to mend, not the caller's. */
  NOT_JSON: [500],
  // Known only inside: what a step met, what a shard's owner meets, what is parked as a dead letter.
  STEP_TIMED_OUT: [],
  FENCED: [],
  NODE_IDS_EXHAUSTED: [],
  MESSAGE_INVALID: [],
};

/** Statuses that the API answers a code with; empty for a code that is never the answer to a request. */
export function statusesOf(code: ErrorCode): readonly number[] {
  return STATUS_OF_CODE[code] ?? STATUS_OF_KIND[ERRORS[code].kind];
}

/** Seconds that a caller is asked to wait before the next try. Long enough for a lease to move. */
export const RETRY_AFTER_S = 1;

export interface ProblemIssue {
  /** Where: `body.input.quantity`, `query.limit`, `header.idempotency-key`. */
  path: string;
  message: string;
}

/** An error that the API itself raises; its message is meant for the caller. */
export class ApiError extends SagaxError {
  readonly status: number;
  readonly issues: readonly ProblemIssue[] | undefined;
  /** Further members of the problem document. */
  readonly members: { readonly [name: string]: unknown };
  /** Seconds for Retry-After, where they are known. */
  readonly retryAfterS: number | undefined;
  constructor(
    code: ErrorCode,
    message: string,
    options: {
      status?: number;
      issues?: readonly ProblemIssue[];
      members?: { readonly [name: string]: unknown };
      retryAfterS?: number;
    } = {},
  ) {
    super(code, message);
    this.status = options.status ?? statusesOf(code)[0] ?? 500;
    this.issues = options.issues;
    this.members = options.members ?? {};
    this.retryAfterS = options.retryAfterS;
  }
}

/** The same words whether there is none or it is not for the caller. */
export function sagaUnknown(namespace: string, sagaId: string, hint = ''): ApiError {
  return new ApiError('SAGA_UNKNOWN', `No saga ${sagaId} is in namespace "${namespace}".${hint}`);
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  /** Path that was asked for. */
  instance?: string;
  code: ErrorCode;
  requestId?: string;
  issues?: readonly ProblemIssue[];
  [member: string]: unknown;
}

/** Issues of a zod error, with the part of the request that they are in put before their path. */
export function issuesOf(part: string, issues: readonly z.core.$ZodIssue[]): ProblemIssue[] {
  // More would help nobody, and a body can be made to have a million of them.
  return issues.slice(0, 50).map((issue) => ({
    path: [part, ...issue.path.map(String)].join('.').slice(0, 512),
    message: issue.message.slice(0, 1024),
  }));
}

/** A value that does not fit its schema: 422 for bodies, 400 for paths, queries and headers. */
export function invalid(part: string, error: z.core.$ZodError, status = 422): ApiError {
  const issues = issuesOf(part, error.issues);
  const first = issues[0];
  return new ApiError(
    'INPUT_INVALID',
    first === undefined
      ? `The ${part} does not fit its schema.`
      : `${first.path}: ${first.message}${issues.length > 1 ? ` (and ${issues.length - 1} more)` : ''}`,
    { status, issues },
  );
}

/** Whatever was thrown, as an ApiError. `unexpected` says that the original has to be logged. */
export function asApiError(error: unknown): { error: ApiError; unexpected: boolean } {
  if (error instanceof ApiError)
    return { error, unexpected: error.status >= 500 && error.kind === 'bug' };
  if (error instanceof SagaxError) return fromSagaxError(error);
  const transport = fromTransport(error as Partial<FastifyError>);
  if (transport !== undefined) return { error: transport, unexpected: false };
  return {
    error: new ApiError('INTERNAL', 'The request met a defect. Report it with the requestId.'),
    unexpected: true,
  };
}

function fromSagaxError(error: SagaxError): { error: ApiError; unexpected: boolean } {
  const kind = error.kind;
  if (statusesOf(error.code).length === 0 || kind === 'bug') {
    return {
      error: new ApiError('INTERNAL', 'The request met a defect. Report it with the requestId.'),
      unexpected: true,
    };
  }
  // Messages of adapters may name hosts and ports; they go to the log, not to the caller.
  const hidden = kind === 'retryable' && error.code !== 'OVERLOADED';
  const message = hidden
    ? `${ERRORS[error.code].summary} Nothing is known to be lost; send the same request again after the time in Retry-After.`
    : error.message;
  return { error: new ApiError(error.code, message), unexpected: hidden || kind === 'definition' };
}

/** What fastify itself refuses before a handler runs. */
function fromTransport(error: Partial<FastifyError>): ApiError | undefined {
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new ApiError(
        'PAYLOAD_REFUSED',
        'The body is over the limit of this route. Keep large payloads elsewhere and send a reference.',
        { status: 413 },
      );
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new ApiError('INPUT_INVALID', 'Send the body as content-type: application/json.', {
        status: 415,
      });
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new ApiError(
        'INPUT_INVALID',
        'The body does not have the length that its header says.',
        {
          status: 400,
        },
      );
    case 'FST_ERR_BAD_URL':
      return new ApiError('INPUT_INVALID', 'The address is not validly percent-encoded.', {
        status: 400,
      });
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new ApiError('PAYLOAD_REFUSED', 'A part of the path is too long.', { status: 414 });
    default:
      return undefined;
  }
}

/** The problem document of an error. */
export function problemOf(error: ApiError, instance?: string, requestId?: string): Problem {
  const problem: Problem = {
    // A URN and not a URL: it names the problem without claiming that a site explains it.
    type: `urn:sagax:error:${error.code}`,
    title: ERRORS[error.code].summary,
    status: error.status,
    detail: error.message,
    code: error.code,
  };
  if (instance !== undefined) problem.instance = instance.slice(0, 2048);
  if (requestId !== undefined) problem.requestId = requestId;
  if (error.issues !== undefined) problem.issues = error.issues;
  for (const [name, value] of Object.entries(error.members)) problem[name] = value;
  return problem;
}
