/**
 * The one table of error codes, and the error classes that carry them.
 *
 * Guards that every failure a user can meet has a stable code, a kind that tells what to do, and a
 * remedy. HTTP statuses live in `api/`; `docs/ERRORS.md` is compared with this table by a test.
 */

/**
 * What the one who gets the error can do:
 * `invalid` mend the request; `notFound` look elsewhere; `conflict` the state forbids it;
 * `retryable` the same call may work later; `definition` mend the saga definition;
 * `config` mend a setting; `bug` report it.
 */
export type ErrorKind =
  'invalid' | 'notFound' | 'conflict' | 'retryable' | 'definition' | 'config' | 'bug' | 'denied';

export const ERRORS = {
  // definitions: refused by defineSaga, or found while a machine runs
  DEFINITION_INVALID: { kind: 'definition', summary: 'A saga definition was refused.' },
  NOT_JSON: { kind: 'definition', summary: 'A value is not plain JSON.' },
  MACHINE_FAULT: { kind: 'definition', summary: "A machine's own code threw while it ran." },
  REPLAY_DIVERGED: {
    kind: 'definition',
    summary: 'Replaying the log gave other events than it has.',
  },
  PIVOT_PASSED: {
    kind: 'conflict',
    summary: 'Past the pivot nothing is compensated or cancelled.',
  },
  // requests
  INPUT_INVALID: { kind: 'invalid', summary: 'The request does not fit its schema.' },
  PAYLOAD_REFUSED: { kind: 'invalid', summary: 'The payload is too large, too deep or unsafe.' },
  DEFINITION_UNKNOWN: { kind: 'notFound', summary: 'No such saga definition or version.' },
  SAGA_UNKNOWN: { kind: 'notFound', summary: 'No such saga.' },
  COMMAND_UNKNOWN: { kind: 'notFound', summary: 'No such command in the saga.' },
  NAMESPACE_UNKNOWN: { kind: 'notFound', summary: 'No such namespace.' },
  DEAD_LETTER_UNKNOWN: { kind: 'notFound', summary: 'No such dead letter.' },
  ROUTE_UNKNOWN: { kind: 'notFound', summary: 'No such route.' },
  SIGNAL_UNKNOWN: { kind: 'invalid', summary: 'The definition declares no such signal.' },
  KEY_REUSED: { kind: 'conflict', summary: 'The key was used before with another request.' },
  SAGA_ENDED: { kind: 'conflict', summary: 'The saga has ended; nothing can follow.' },
  CURSOR_INVALID: { kind: 'invalid', summary: 'The cursor is not one that this list gave out.' },
  // access
  UNAUTHENTICATED: { kind: 'denied', summary: 'No valid credentials came with the request.' },
  FORBIDDEN: { kind: 'denied', summary: 'The credentials do not allow this.' },
  RATE_LIMITED: { kind: 'retryable', summary: 'Too many requests from one caller.' },
  IDENTITY_UNAVAILABLE: { kind: 'retryable', summary: 'The identity provider does not answer.' },
  KEY_UNKNOWN: { kind: 'notFound', summary: 'No such API key.' },
  // availability
  BUS_UNAVAILABLE: { kind: 'retryable', summary: 'The message bus does not answer.' },
  DATABASE_UNAVAILABLE: { kind: 'retryable', summary: 'The database does not answer.' },
  OVERLOADED: { kind: 'retryable', summary: 'Too much is under way; try again later.' },
  FENCED: { kind: 'retryable', summary: 'Another node owns the shard now.' },
  COMMIT_UNKNOWN: {
    kind: 'retryable',
    summary: 'The connection broke while a commit was under way.',
  },
  // ids
  CLOCK_BACKWARDS: {
    kind: 'retryable',
    summary: 'The clock went back further than can be ridden out.',
  },
  NODE_LEASE_LOST: {
    kind: 'retryable',
    summary: 'The lease on the Snowflake node id has run out.',
  },
  NODE_IDS_EXHAUSTED: { kind: 'retryable', summary: 'All Snowflake node ids are leased.' },
  // set-up
  CONFIG_INVALID: { kind: 'config', summary: 'A setting is wrong.' },
  SCHEMA_NEWER: {
    kind: 'config',
    summary: 'The database was migrated by a newer, breaking version.',
  },
  TOPOLOGY_MISMATCH: {
    kind: 'config',
    summary: 'A count fixed at creation differs from the setting.',
  },
  PORT_TAKEN: { kind: 'config', summary: 'The port is in use.' },
  DATA_FOLDER_LOCKED: { kind: 'config', summary: 'Another process uses the data folder.' },
  // steps: codes found in events and in problem details of a saga
  STEP_TIMED_OUT: {
    kind: 'retryable',
    summary: 'A step did not answer in time; its outcome is unknown.',
  },
  STEP_ATTEMPTS_EXHAUSTED: {
    kind: 'terminal',
    summary: 'A step failed as often as its budget allows.',
  },
  STEP_REJECTED: {
    kind: 'terminal',
    summary: 'A participant refused a step for a business reason.',
  },
  COMPENSATION_FAILED: { kind: 'terminal', summary: 'A compensation used up its attempts.' },
  SETTLEMENT_FAILED: {
    kind: 'terminal',
    summary: "A step's unknown outcome could not be settled.",
  },
  SIGNAL_RECEIVED: { kind: 'terminal', summary: 'A signal made the saga go back.' },
  TIMER_FIRED: { kind: 'terminal', summary: 'A timer made the saga go back.' },
  CANCELLED: { kind: 'terminal', summary: 'The saga was cancelled.' },
  // messages
  MESSAGE_INVALID: { kind: 'invalid', summary: 'A message is not valid in the wire protocol.' },
  INTERNAL: { kind: 'bug', summary: 'A defect of Sagax.' },
} as const satisfies Record<string, { kind: ErrorKind | 'terminal'; summary: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** Every error that Sagax throws on purpose. `message` says what is wrong and how to mend it. */
export class SagaxError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
  get kind(): ErrorKind | 'terminal' {
    return ERRORS[this.code].kind;
  }
}

/** The author's definition is at fault: refused at `defineSaga`, or met while its machine ran. */
export class DefinitionFault extends SagaxError {}

/** The log and the definition disagree: the replayed turn gave other events than were logged (I9). */
export class ReplayDivergence extends SagaxError {
  constructor(message: string) {
    super('REPLAY_DIVERGED', message);
  }
}

/** The caller no longer owns what it wrote to (I2). All memory of the shard must be dropped. */
export class FencedError extends SagaxError {
  constructor(message: string) {
    super('FENCED', message);
  }
}

/** A write was sent and its answer lost: it may or may not be there. Re-read before deciding. */
export class CommitUnknownError extends SagaxError {
  constructor(message: string, options?: ErrorOptions) {
    super('COMMIT_UNKNOWN', message, options);
  }
}
