/**
 * `defineSaga`: a stock xstate machine with its name, version, input and signals, checked once.
 *
 * Guards that what it accepts, the engine runs, and that what it refuses is refused here, at import,
 * with the state and the remedy named; never in the middle of a saga.
 */
import type { AnyStateMachine, EventFromLogic, InputFrom } from 'xstate';
import type { z } from 'zod';
import { definitionHash } from './definition-hash.ts';
import type { ActorSpec } from './steps.ts';
import { validateMachine } from './validate.ts';

export type SignalSchemas = { readonly [name: string]: z.ZodObject };

/** What a signal is to the machine: its payload's fields beside `type`. */
export type SignalEvent<S extends SignalSchemas> = {
  [K in keyof S & string]: { type: K } & z.output<S[K]>;
}[keyof S & string];

export interface SagaDefinition<
  I extends z.ZodType = z.ZodType,
  S extends SignalSchemas = SignalSchemas,
> {
  readonly kind: 'sagax.definition';
  readonly name: string;
  /** A positive whole number; a running saga stays on the one it was started with. */
  readonly version: number;
  readonly description: string;
  /** Hash over the machine's structure and its steps' policies; a change under the same version is seen by it. */
  readonly hash: string;
  readonly machine: AnyStateMachine;
  readonly input: I;
  readonly signals: S;
  /** Actor name (`src`) → what it stands for. */
  readonly actors: ReadonlyMap<string, ActorSpec>;
  /** Services that its commands go to. */
  readonly services: readonly string[];
}
export type AnyDefinition = SagaDefinition<any, any>;

/** An error in the place of the argument, in words, when types don't fit. */
type Fits<Given, Wanted, Message extends string> = [Given] extends [Wanted]
  ? unknown
  : { error: Message };

/**
 * Declares a saga. The machine's `input` and events must fit the schemas: a mismatch is a compile error.
 * @throws DefinitionFault naming the state and the remedy
 */
export function defineSaga<
  M extends AnyStateMachine,
  I extends z.ZodType,
  const S extends SignalSchemas = {},
>(spec: {
  /** Lower-case kebab case. */
  name: string;
  version: number;
  description?: string;
  machine: M &
    Fits<
      z.output<I>,
      InputFrom<M>,
      "the input schema does not give what the machine's input needs"
    > &
    Fits<
      SignalEvent<S>,
      EventFromLogic<M>,
      "a signal is not among the machine's events (types.events), or its payload differs"
    >;
  input: I;
  signals?: S;
}): SagaDefinition<I, S> {
  const signals = spec.signals ?? ({} as S);
  const { actors, services } = validateMachine({
    name: spec.name,
    version: spec.version,
    machine: spec.machine,
    signals: Object.keys(signals),
  });
  return {
    kind: 'sagax.definition',
    name: spec.name,
    version: spec.version,
    description: spec.description ?? '',
    hash: definitionHash(spec.machine, actors),
    machine: spec.machine,
    input: spec.input,
    signals,
    actors,
    services,
  };
}
