/**
 * Contracts: what a saga and a participant agree on for one command, as zod schemas.
 *
 * Guards that both sides get the same types from one place: a wrong input, output or rejection is a
 * compile error, and a value that does not fit is found at the border, not in the middle of a saga.
 */
import type { z } from 'zod';
import { DefinitionFault } from './errors.ts';
import type { Failure } from './events.ts';
import type { Json } from './json.ts';
import { commandNameSchema, serviceOf } from './wire.ts';

export type Rejections = { readonly [code: string]: z.ZodType };

export interface CommandContract<
  I extends z.ZodType = z.ZodType,
  O extends z.ZodType = z.ZodType,
  R extends Rejections = Rejections,
> {
  readonly kind: 'sagax.command';
  /** `service.command`; its service is the topic it is sent to. */
  readonly name: string;
  readonly service: string;
  readonly input: I;
  readonly output: O;
  /** The business "no"s: code → schema of what comes with it. Never retried. */
  readonly rejections: R;
}
export type AnyContract = CommandContract<any, any, any>;

export type InputOf<C extends AnyContract> = z.output<C['input']>;
export type InputSent<C extends AnyContract> = z.input<C['input']>;
export type OutputOf<C extends AnyContract> = z.output<C['output']>;
export type OutputGiven<C extends AnyContract> = z.input<C['output']>;
export type RejectionCode<C extends AnyContract> = keyof C['rejections'] & string;
/** As the participant gave it: it is seen to fit, and kept as it came. */
export type RejectionData<C extends AnyContract, K extends RejectionCode<C>> = z.input<
  C['rejections'][K]
>;

/**
 * Declares a command.
 * @param name `service.command` in lower-case kebab case, e.g. `inventory.reserve-stock`
 * @throws DefinitionFault when the name is not of that form
 */
export function command<I extends z.ZodType, O extends z.ZodType, R extends Rejections = {}>(
  name: string,
  spec: { input: I; output: O; rejections?: R },
): CommandContract<I, O, R> {
  if (!commandNameSchema.safeParse(name).success) {
    throw new DefinitionFault(
      'DEFINITION_INVALID',
      `Command name "${name}" must be "service.command" in lower-case kebab case, e.g. "inventory.reserve-stock".`,
    );
  }
  return {
    kind: 'sagax.command',
    name,
    service: serviceOf(name),
    input: spec.input,
    output: spec.output,
    rejections: spec.rejections ?? ({} as R),
  };
}

/** What a machine gets as `event.error` in `onError`: plain JSON, the same live and on replay. */
export interface StepError {
  /** `rejected`: a business "no", nothing was changed. `failed`: attempts used up. `timedOut`: no answer in time. */
  kind: 'rejected' | 'failed' | 'timedOut';
  code: string;
  message: string;
  data?: unknown;
}

/** Narrows `event.error` in a guard or action to one rejection of a contract, with its data typed. */
export function isRejection<C extends AnyContract, K extends RejectionCode<C>>(
  error: unknown,
  contract: C,
  code: K,
): error is StepError & { kind: 'rejected'; code: K; data: RejectionData<C, K> } {
  if (typeof error !== 'object' || error === null) return false;
  const candidate = error as Partial<StepError>;
  return (
    candidate.kind === 'rejected' &&
    candidate.code === code &&
    contract.rejections[code]?.safeParse(candidate.data).success === true
  );
}

/**
 * `event.error` of an `onError` as what a saga keeps in its context: code, words, and a rejection's data.
 * Takes anything, so that a fake in an author's test may reject with a plain Error (code `Error`).
 */
export function failureOf(error: unknown): Failure {
  if (typeof error !== 'object' || error === null) return { code: 'Error', message: String(error) };
  const { code, message, data } = error as Partial<StepError>;
  return {
    code: typeof code === 'string' ? code : 'Error',
    message: typeof message === 'string' ? message : '',
    ...(data === undefined ? {} : { data: data as Json }),
  };
}

/** What a machine gets when its saga is cancelled before the pivot. A machine that does not handle it is compensated by the engine. */
export interface CancelEvent {
  type: 'saga.cancel';
  reason: string;
  by: string;
}
