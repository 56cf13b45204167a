/**
 * Step logic: actors for stock xstate machines whose work is done by a participant elsewhere.
 *
 * Guards that an author writes a plain xstate `invoke` and that everything of xstate works on it. The
 * engine never runs these actors; it reads what they stand for (`stepOf`) and sends a command. An
 * author's own `createActor` needs `machine.provide({ actors })` with fakes, and says so if it has none.
 */
import { fromPromise, type AnyActorLogic, type PromiseActorLogic } from 'xstate';
import type { AnyContract, InputOf, InputSent, OutputOf } from './contracts.ts';
import { durationMs, type Duration } from './durations.ts';
import { DefinitionFault } from './errors.ts';
import type { StepClass } from './events.ts';

/** How often and how fast the engine tries again after an unmodelled failure. */
export interface RetryOptions {
  /** Attempts in all, the first one included. */
  maxAttempts?: number;
  /** Pause before the second attempt. Default 200 ms. */
  initialInterval?: Duration;
  /** Each pause is this much longer than the one before. Default 2. */
  backoff?: number;
  /** Longest pause. Default 30 s. */
  maxInterval?: Duration;
}

export interface RetryPolicy {
  maxAttempts: number;
  initialIntervalMs: number;
  backoff: number;
  maxIntervalMs: number;
}

export interface StepOptions {
  /** From the request to the answer, over all attempts. After it the outcome is unknown. Default: none. */
  timeout?: Duration;
  /** For long handlers that call `heartbeat()`: longest silence before the next attempt. Default: none. */
  heartbeatTimeout?: Duration;
  retry?: RetryOptions;
}

export interface StepSpec {
  kind: 'step';
  class: StepClass;
  contract: AnyContract;
  timeoutMs: number | null;
  heartbeatTimeoutMs: number | null;
  retry: RetryPolicy;
  compensation: {
    contract: AnyContract;
    input: (done: { input: unknown; output: unknown }) => unknown;
    retry: RetryPolicy;
  } | null;
}
export interface CompensateAllSpec {
  kind: 'compensateAll';
}
export type ActorSpec = StepSpec | CompensateAllSpec;

const SPEC: unique symbol = Symbol.for('sagax.actor-spec') as never;

/** What one of our creators made this logic for; undefined for any other logic. */
export function specOf(logic: unknown): ActorSpec | undefined {
  if (typeof logic !== 'object' || logic === null) return undefined;
  return (logic as { [SPEC]?: ActorSpec })[SPEC];
}

/** Ten attempts: with the default pauses about 90 s. */
const DEFAULT_ATTEMPTS = 10;
/** For what must succeed in the end (retriable steps, compensations): about 10 min, then a person. */
const DEFAULT_PERSISTENT_ATTEMPTS = 28;

/** An error in the place of the contract, in words, when it has a business "no" where none may be. */
type WithoutRejections<
  C extends AnyContract,
  Message extends string,
> = keyof C['rejections'] extends never ? unknown : { error: Message };

type CompensationInput<C extends AnyContract, U extends AnyContract> = (done: {
  input: InputOf<C>;
  output: OutputOf<C>;
}) => InputSent<U>;

export type CompensatableOptions<C extends AnyContract, U extends AnyContract> = StepOptions & {
  /** The contract that takes back what this step did. It must succeed in the end, so it has no rejections. */
  compensateWith: U & WithoutRejections<U, 'a compensation must not have rejections'>;
  compensationRetry?: RetryOptions;
} & (InputOf<C> extends InputSent<U>
    ? {
        /**
         * Builds the compensation's input from what the step got and gave, both as its schemas give them. Default: the
         * step's own input, as its schema gives it.
         */
        compensation?: CompensationInput<C, U>;
      }
    : {
        /** Builds the compensation's input from what the step got and gave, both as its schemas give them. */
        compensation: CompensationInput<C, U>;
      });

type StepLogic<C extends AnyContract> = PromiseActorLogic<OutputOf<C>, InputSent<C>>;

/** A step that can be taken back: `compensateWith` is owed from the moment it is requested. */
export function compensatable<C extends AnyContract, U extends AnyContract>(
  contract: C,
  options: CompensatableOptions<C, U>,
): StepLogic<C> {
  const input = (options as { compensation?: (done: never) => unknown }).compensation;
  return stepLogic(contract, 'compensatable', options, {
    contract: options.compensateWith,
    input: (input ?? ((done: { input: unknown }) => done.input)) as (done: unknown) => unknown,
    retry: retryPolicy(options.compensationRetry, DEFAULT_PERSISTENT_ATTEMPTS, contract.name),
  });
}

/** The point of no return: once it succeeds nothing is compensated any more. One on every path. */
export function pivot<C extends AnyContract>(contract: C, options: StepOptions = {}): StepLogic<C> {
  return stepLogic(contract, 'pivot', options, null);
}

/** A step after the pivot: sure to succeed if repeated. It has no business "no"; out of attempts, the saga is stuck. */
export function retriable<C extends AnyContract>(
  contract: C & WithoutRejections<C, 'a retriable step must not have rejections'>,
  options: StepOptions = {},
): StepLogic<C> {
  return stepLogic(contract, 'retriable', options, null);
}

/** A step that changes nothing: nothing is owed for it. */
export function readOnly<C extends AnyContract>(
  contract: C,
  options: StepOptions = {},
): StepLogic<C> {
  return stepLogic(contract, 'readOnly', options, null);
}

/** Runs every compensation that is owed, in reverse of the partial order; done when nothing is owed. */
export function compensateAll(): PromiseActorLogic<null, undefined> {
  return withSpec(
    fromPromise<null, undefined>(() => Promise.reject(notRunnable('compensateAll()'))),
    { kind: 'compensateAll' },
  );
}

function stepLogic<C extends AnyContract>(
  contract: C,
  stepClass: StepClass,
  options: StepOptions,
  compensation: StepSpec['compensation'],
): StepLogic<C> {
  const persistent = stepClass === 'retriable';
  return withSpec(
    fromPromise<OutputOf<C>, InputSent<C>>(() => Promise.reject(notRunnable(contract.name))),
    {
      kind: 'step',
      class: stepClass,
      contract,
      timeoutMs:
        options.timeout === undefined
          ? null
          : durationMs(options.timeout, `timeout of ${contract.name}`),
      heartbeatTimeoutMs:
        options.heartbeatTimeout === undefined
          ? null
          : durationMs(options.heartbeatTimeout, `heartbeatTimeout of ${contract.name}`),
      retry: retryPolicy(
        options.retry,
        persistent ? DEFAULT_PERSISTENT_ATTEMPTS : DEFAULT_ATTEMPTS,
        contract.name,
      ),
      compensation,
    },
  );
}

function withSpec<L extends AnyActorLogic>(logic: L, spec: ActorSpec): L {
  Object.defineProperty(logic, SPEC, { value: spec });
  return logic;
}

function notRunnable(name: string): Error {
  return new Error(
    `${name} is run by a participant through the engine. To run the machine by createActor, give it fakes: ` +
      'machine.provide({ actors: { … } }).',
  );
}

function retryPolicy(options: RetryOptions = {}, attempts: number, where: string): RetryPolicy {
  const policy: RetryPolicy = {
    maxAttempts: options.maxAttempts ?? attempts,
    initialIntervalMs: durationMs(
      options.initialInterval ?? 200,
      `retry.initialInterval of ${where}`,
    ),
    backoff: options.backoff ?? 2,
    maxIntervalMs: durationMs(options.maxInterval ?? '30s', `retry.maxInterval of ${where}`),
  };
  if (!Number.isInteger(policy.maxAttempts) || policy.maxAttempts < 1) {
    throw new DefinitionFault(
      'DEFINITION_INVALID',
      `retry.maxAttempts of ${where} must be a whole number ≥ 1.`,
    );
  }
  if (!(policy.backoff >= 1)) {
    throw new DefinitionFault('DEFINITION_INVALID', `retry.backoff of ${where} must be ≥ 1.`);
  }
  return policy;
}
