/**
 * Machines written for the simulation: what the examples don't do. Loops, delays and their cancelling,
 * history, leaving steps in flight, mixed recovery, emit and raise, code that throws, no cancel handler.
 */
import { assign, cancel, emit, raise, setup } from 'xstate';
import { z } from 'zod';
import {
  command,
  compensatable,
  compensateAll,
  defineSaga,
  pivot,
  readOnly,
  retriable,
  type CancelEvent,
  type RetryOptions,
  type SignalEvent,
} from '../../engine/core/index.ts';

const request = z.object({ what: z.string(), round: z.int().nonnegative() });
const answer = z.object({ ref: z.string() });
const rejections = { No: z.object({ why: z.string() }) };

/** Contracts over three services; `take` and `put` are transactional there, `call` and `hangUp` effects. */
export const take = command('alpha.take', { input: request, output: answer, rejections });
export const putBack = command('alpha.put-back', { input: answer, output: z.object({}) });
export const look = command('alpha.look', { input: request, output: answer, rejections });
export const call = command('beta.call', { input: request, output: answer, rejections });
export const hangUp = command('beta.hang-up', { input: answer, output: z.object({}) });
export const decideIt = command('gamma.decide-it', { input: request, output: answer, rejections });
export const tell = command('gamma.tell', { input: request, output: answer });

/** Small budgets, so that sagas get stuck within a simulated minute. */
const hasty: RetryOptions = { maxAttempts: 3, initialInterval: 300, maxInterval: 2_000 };

const taking = compensatable(take, {
  compensateWith: putBack,
  compensation: ({ output }) => ({ ref: output.ref }),
  timeout: '8s',
  retry: hasty,
  compensationRetry: { ...hasty, maxAttempts: 4 },
});
const calling = compensatable(call, {
  compensateWith: hangUp,
  compensation: ({ output }) => ({ ref: output.ref }),
  timeout: '12s',
  heartbeatTimeout: '3s',
  retry: hasty,
  compensationRetry: { ...hasty, maxAttempts: 4 },
});
const looking = readOnly(look, { timeout: '5s', retry: hasty });
const deciding = pivot(decideIt, { timeout: '10s', retry: hasty });
const telling = retriable(tell, { retry: { ...hasty, maxAttempts: 5 } });

const plain = z.object({ rounds: z.int().nonnegative(), fault: z.boolean().default(false) });
type PlainInput = z.output<typeof plain>;
interface PlainContext extends PlainInput {
  round: number;
  refs: string[];
}
const begin = ({ input }: { input: PlainInput }): PlainContext => ({
  ...input,
  round: 0,
  refs: [],
});

// ---------------------------------------------------------------- ladder: a loop with rests

const ladderSignals = { hurry: z.object({ by: z.string() }) };

/** Takes `rounds` times with a rest in between that a signal cuts short; looks; decides; tells. */
export const ladder = defineSaga({
  name: 'ladder',
  version: 1,
  input: plain,
  signals: ladderSignals,
  machine: setup({
    types: {
      input: {} as PlainInput,
      context: {} as PlainContext,
      events: {} as SignalEvent<typeof ladderSignals>,
    },
    actors: { taking, looking, deciding, telling, compensate: compensateAll() },
    // A long ladder is climbed fast, so that its snapshots are read while faults still happen.
    delays: { rest: ({ context }) => (context.rounds > 10 ? 30 : 700) },
  }).createMachine({
    id: 'ladder',
    context: begin,
    initial: 'taking',
    states: {
      taking: {
        invoke: {
          src: 'taking',
          input: ({ context }) => ({ what: 'rung', round: context.round }),
          onDone: {
            target: 'resting',
            actions: assign({
              round: ({ context }) => context.round + 1,
              refs: ({ context, event }) => [...context.refs, event.output.ref],
            }),
          },
          onError: 'compensating',
        },
      },
      resting: {
        always: [{ guard: ({ context }) => context.round >= context.rounds, target: 'looking' }],
        after: { rest: 'taking' },
        on: { hurry: 'taking' },
      },
      looking: {
        invoke: {
          src: 'looking',
          input: ({ context }) => ({ what: 'top', round: context.round }),
          onDone: 'deciding',
          onError: 'compensating',
        },
      },
      deciding: {
        invoke: {
          src: 'deciding',
          input: ({ context }) => ({ what: 'flag', round: context.round }),
          onDone: 'telling',
          onError: 'compensating',
        },
      },
      telling: {
        invoke: {
          src: 'telling',
          input: ({ context }) => ({ what: 'top', round: context.round }),
          onDone: 'done',
        },
      },
      compensating: { invoke: { src: 'compensate', onDone: 'down' } },
      done: { type: 'final' },
      down: { type: 'final' },
    },
    output: ({ context }) => ({ refs: context.refs }),
  }),
});

// ---------------------------------------------------------------- errand: history, parallel, left steps

const errandSignals = {
  hold: z.object({}),
  proceed: z.object({ note: z.string().optional() }),
};

/** Work in two regions that a signal leaves in the middle of and comes back to; gives up when held too long. */
export const errand = defineSaga({
  name: 'errand',
  version: 1,
  input: plain,
  signals: errandSignals,
  machine: setup({
    types: {
      input: {} as PlainInput,
      context: {} as PlainContext,
      events: {} as
        SignalEvent<typeof errandSignals> | CancelEvent | { type: 'nudge' } | { type: 'bothDone' },
      emitted: {} as { type: 'Held'; round: number } | { type: 'Resumed'; round: number },
    },
    actors: { taking, calling, looking, telling, deciding, compensate: compensateAll() },
  }).createMachine({
    id: 'errand',
    context: begin,
    initial: 'working',
    states: {
      working: {
        type: 'parallel',
        on: {
          hold: {
            target: 'held',
            actions: [
              assign({ round: ({ context }) => context.round + 1 }),
              emit(({ context }) => ({ type: 'Held' as const, round: context.round })),
            ],
          },
          'saga.cancel': 'compensating',
        },
        onDone: 'deciding',
        states: {
          left: {
            initial: 'taking',
            states: {
              taking: {
                invoke: {
                  src: 'taking',
                  input: ({ context }) => ({ what: 'left', round: context.round }),
                  onDone: 'calling',
                  onError: '#errand.compensating',
                },
              },
              calling: {
                invoke: {
                  src: 'calling',
                  input: ({ context }) => ({ what: 'left', round: context.round }),
                  onDone: 'over',
                  onError: '#errand.compensating',
                },
              },
              over: { type: 'final' },
              hist: { type: 'history' },
            },
          },
          right: {
            initial: 'waiting',
            states: {
              waiting: {
                entry: raise({ type: 'nudge' }, { delay: 1_500, id: 'nudge' }),
                exit: cancel('nudge'),
                on: { nudge: 'looking', proceed: 'looking' },
              },
              looking: {
                invoke: {
                  src: 'looking',
                  input: ({ context }) => ({ what: 'right', round: context.round }),
                  onDone: 'calling',
                  // A read that fails is no reason to give up.
                  onError: 'calling',
                },
              },
              calling: {
                invoke: {
                  src: 'calling',
                  input: ({ context }) => ({ what: 'right', round: context.round }),
                  onDone: 'over',
                  onError: '#errand.compensating',
                },
              },
              over: { type: 'final' },
            },
          },
          hist: { type: 'history', history: 'deep' },
        },
      },
      held: {
        on: {
          proceed: {
            target: 'working.hist',
            actions: emit(({ context }) => ({ type: 'Resumed' as const, round: context.round })),
          },
          'saga.cancel': 'compensating',
        },
        after: { 4_000: 'compensating' },
      },
      deciding: {
        invoke: {
          src: 'deciding',
          input: ({ context }) => ({ what: 'errand', round: context.round }),
          onDone: 'telling',
          onError: 'compensating',
        },
      },
      telling: {
        invoke: {
          src: 'telling',
          input: ({ context }) => ({ what: 'errand', round: context.round }),
          onDone: 'done',
        },
      },
      compensating: { invoke: { src: 'compensate', onDone: 'undone' } },
      done: { type: 'final' },
      undone: { type: 'final' },
    },
  }),
});

// ---------------------------------------------------------------- detour: mixed recovery, throwing code

/**
 * Takes, then calls; when the call fails takes another way without compensating; when that fails compensates
 * and tries once more from the start. With `fault` its own code throws on the first answer.
 */
export const detour = defineSaga({
  name: 'detour',
  version: 1,
  input: plain,
  machine: setup({
    types: { input: {} as PlainInput, context: {} as PlainContext },
    actors: { taking, calling, telling, deciding, compensate: compensateAll() },
    guards: { firstTry: ({ context }) => context.round < 1 },
    actions: {
      note: assign({
        refs: ({ context }, params: { ref: string }) => {
          if (context.fault) throw new Error('this machine was asked to throw');
          return [...context.refs, params.ref];
        },
      }),
    },
  }).createMachine({
    id: 'detour',
    context: begin,
    initial: 'taking',
    states: {
      taking: {
        invoke: {
          src: 'taking',
          input: ({ context }) => ({ what: 'detour', round: context.round }),
          onDone: {
            target: 'calling',
            actions: { type: 'note', params: ({ event }) => ({ ref: event.output.ref }) },
          },
          onError: 'compensating',
        },
      },
      calling: {
        invoke: {
          src: 'calling',
          input: ({ context }) => ({ what: 'main road', round: context.round }),
          onDone: 'deciding',
          onError: 'sideRoad',
        },
      },
      sideRoad: {
        invoke: {
          src: 'taking',
          input: ({ context }) => ({ what: 'side road', round: context.round }),
          onDone: 'deciding',
          onError: 'compensating',
        },
      },
      deciding: {
        invoke: {
          src: 'deciding',
          input: ({ context }) => ({ what: 'detour', round: context.round }),
          onDone: 'telling',
          onError: 'compensating',
        },
      },
      telling: {
        invoke: {
          src: 'telling',
          input: ({ context }) => ({ what: 'detour', round: context.round }),
          onDone: 'done',
        },
      },
      compensating: {
        invoke: {
          src: 'compensate',
          onDone: [
            {
              guard: 'firstTry',
              target: 'taking',
              actions: assign({ round: ({ context }) => context.round + 1 }),
            },
            { target: 'undone' },
          ],
        },
      },
      done: { type: 'final' },
      undone: { type: 'final' },
    },
    output: ({ context }) => ({ refs: context.refs, rounds: context.round }),
  }),
});

// ---------------------------------------------------------------- bare: errors that nobody takes

/** A machine that fails into an error nobody handles, so that the engine compensates in its stead. */
export const bare = defineSaga({
  name: 'bare',
  version: 1,
  input: plain,
  machine: setup({
    types: { input: {} as PlainInput, context: {} as PlainContext },
    actors: { taking, calling },
  }).createMachine({
    id: 'bare',
    context: begin,
    initial: 'taking',
    states: {
      taking: {
        invoke: {
          src: 'taking',
          input: ({ context }) => ({ what: 'bare', round: context.round }),
          onDone: 'calling',
          onError: 'gone',
        },
      },
      calling: {
        invoke: {
          src: 'calling',
          input: ({ context }) => ({ what: 'bare', round: context.round }),
          onDone: 'done',
          onError: 'gone',
        },
      },
      done: { type: 'final' },
      gone: { type: 'final' },
    },
  }),
});

export const simulationSagas = [ladder, errand, detour, bare] as const;
