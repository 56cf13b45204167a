/**
 * Building blocks for the machines of the core's tests: contracts and steps by name, and `define`, which lets a
 * test write a machine without the types that an author's definition has.
 */
import { setup, type AnyStateMachine } from 'xstate';
import { z } from 'zod';
import type { AnyDefinition } from '../../engine/core/define.ts';
import {
  command,
  compensatable,
  compensateAll,
  defineSaga,
  pivot,
  readOnly,
  retriable,
  type RetryOptions,
  type SignalSchemas,
  type StepOptions,
} from '../../engine/core/index.ts';

const loose = z.looseObject({});

/** The "no"s that tests say, with any data or none. */
const rejections = Object.fromEntries(
  ['No', 'Busy', 'Empty', 'Full', 'Other', 'OutOfStock'].map((code) => [code, z.any()]),
);

export const doing = (name: string) =>
  command(`svc.do-${name}`, { input: loose, output: loose, rejections });
export const undoing = (name: string) =>
  command(`svc.undo-${name}`, { input: loose, output: loose });
export const telling = (name: string) =>
  command(`svc.tell-${name}`, { input: loose, output: loose });

/** Three attempts, 100 ms and 200 ms apart (with jitter: half of it to all of it). */
export const hasty: RetryOptions = { maxAttempts: 3, initialInterval: 100, maxInterval: 1_000 };

export function undoable(name: string, options: StepOptions = {}) {
  return compensatable(doing(name), {
    retry: hasty,
    ...options,
    compensateWith: undoing(name),
    compensation: ({ input, output }) => ({ input, output }),
    compensationRetry: hasty,
  });
}
export const decisive = (name: string, options: StepOptions = {}) =>
  pivot(doing(name), { retry: hasty, ...options });
export const lasting = (name: string, options: StepOptions = {}) =>
  retriable(telling(name), { retry: hasty, ...options });
export const reading = (name: string, options: StepOptions = {}) =>
  readOnly(doing(name), { retry: hasty, ...options });

/** The actors that most machines here use: a, b, c, d can be undone; p is a pivot; r, s last; q reads; back compensates. */
export const actors = {
  a: undoable('a'),
  b: undoable('b'),
  c: undoable('c'),
  d: undoable('d'),
  p: decisive('p'),
  r: lasting('r'),
  s: lasting('s'),
  q: reading('q'),
  back: compensateAll(),
};

export interface DefineOptions {
  name?: string;
  version?: number;
  /** Signals whose payload may be any object; or schemas. */
  signals?: readonly string[] | SignalSchemas;
}

/** `defineSaga` for a machine whose types don't matter to the test. */
export function define(machine: unknown, options: DefineOptions = {}): AnyDefinition {
  return defineSaga({
    name: options.name ?? 'tested',
    version: options.version ?? 1,
    machine: machine as AnyStateMachine,
    input: z.any(),
    signals: signalSchemas(options.signals ?? []),
  }) as AnyDefinition;
}

function signalSchemas(signals: readonly string[] | SignalSchemas): SignalSchemas {
  return Array.isArray(signals)
    ? Object.fromEntries((signals as string[]).map((name) => [name, loose]))
    : (signals as SignalSchemas);
}

/** A state that runs one step: on to `done`, or to `failed` with the error kept in the context. */
export function doStep(src: string, done: string, failed?: string): object {
  return {
    invoke: {
      src,
      input: { step: src },
      onDone: done,
      ...(failed === undefined ? {} : { onError: failed }),
    },
  };
}

/** `undoing` and the two ends that most machines share. */
export const ends = {
  undoing: { invoke: { src: 'back', onDone: 'undone' } },
  done: { type: 'final' },
  undone: { type: 'final' },
} as const;

export type States = { [name: string]: object };
/** A machine of these states, the first one to begin with, and `ends`. */
export const machineOf = (
  states: States,
  rest: object = {},
  implementations: object = {},
): unknown =>
  setup({ actors, ...implementations }).createMachine({
    id: 'm',
    initial: Object.keys(states)[0],
    context: {},
    states: {
      ...states,
      ...ends,
      ...(states['undoing'] === undefined ? {} : { undoing: states['undoing'] }),
    },
    ...rest,
  } as never);

/** Whether a machine's code is bad; one object, so that the bad and the mended edition have the same source text. */
export interface Edition {
  isBad: boolean;
}
export function oops(): never {
  throw new Error('a bug of the author');
}
