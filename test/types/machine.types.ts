/**
 * Compile-time: inside a machine, steps, events, guards, delays and actions are typed by xstate's own
 * `setup()`. Each mistake stands beside the same thing done right.
 */
import { assign, emit, enqueueActions, raise, setup } from 'xstate';
import {
  compensatable,
  compensateAll,
  failureOf,
  isRejection,
  pivot,
  readOnly,
  retriable,
  type Failure,
} from '../../engine/core/index.ts';
import { notify, release, reserve, ship } from './fixtures.ts';

interface Context {
  sku: string;
  reservationId: string;
  left: number;
  waitMs: number;
  reason: Failure | null;
}

const saga = setup({
  types: {
    input: {} as { sku: string },
    context: {} as Context,
    events: {} as { type: 'approve'; by: string } | { type: 'again' },
    emitted: {} as { type: 'Shipped'; trackingId: string },
    tags: {} as 'open',
    output: {} as { reason: Failure | null },
  },
  actors: {
    reserve: compensatable(reserve, {
      compensateWith: release,
      compensation: ({ output }) => ({ reservationId: output.reservationId }),
    }),
    look: readOnly(reserve),
    ship: pivot(ship),
    notify: retriable(notify),
    compensate: compensateAll(),
  },
  actions: {
    because: assign((_, reason: Failure) => ({ reason })),
  },
  guards: {
    manyLeft: ({ context }, params: { atLeast: number }) => context.left >= params.atLeast,
  },
  delays: {
    patience: ({ context }) => context.waitMs,
  },
});
const context = (sku: string): Context => ({
  sku,
  reservationId: '',
  left: 0,
  waitMs: 1,
  reason: null,
});

// Everything right, in one machine.
export const machine = saga.createMachine({
  context: ({ input }) => context(input.sku),
  initial: 'reserving',
  states: {
    reserving: {
      tags: 'open',
      invoke: {
        src: 'reserve',
        // The schema fills in the quantity.
        input: ({ context: { sku } }) => ({ sku }),
        onDone: {
          target: 'asking',
          actions: assign({ reservationId: ({ event }) => event.output.reservationId }),
        },
        onError: [
          {
            guard: ({ event }) =>
              isRejection(event.error, reserve, 'OutOfStock') && event.error.data.available > 0,
            target: 'asking',
            actions: assign({
              left: ({ event }) =>
                isRejection(event.error, reserve, 'OutOfStock') ? event.error.data.available : 0,
            }),
          },
          {
            target: 'compensating',
            actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
          },
        ],
      },
    },
    asking: {
      entry: enqueueActions(({ enqueue, check, context: { left } }) => {
        if (check({ type: 'manyLeft', params: { atLeast: 3 } })) enqueue.raise({ type: 'again' });
        enqueue.assign({ left: left - 1 });
      }),
      on: {
        approve: { target: 'shipping', guard: ({ event }) => event.by.length > 0 },
        again: {
          guard: { type: 'manyLeft', params: { atLeast: 1 } },
          actions: raise({ type: 'again' }),
        },
      },
      after: { patience: 'compensating' },
    },
    shipping: {
      invoke: {
        src: 'ship',
        input: ({ context: { reservationId } }) => ({ reservationId }),
        onDone: {
          target: 'done',
          actions: emit(({ event }) => ({ type: 'Shipped', trackingId: event.output.trackingId })),
        },
        onError: 'compensating',
      },
    },
    compensating: { invoke: { src: 'compensate', onDone: 'done' } },
    done: { type: 'final' },
  },
  output: ({ context: { reason } }) => ({ reason }),
});

// ---------------------------------------------------------------- steps

saga.createMachine({
  context: context(''),
  // @ts-expect-error an input of another shape
  invoke: { src: 'reserve', input: { article: 'book' } },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error an input of another type, from a function
  invoke: { src: 'reserve', input: ({ context: { left } }) => ({ sku: left }) },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error no input where the step takes one
  invoke: { src: 'reserve' },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error a step that was not set up
  invoke: { src: 'reserv', input: { sku: 'book' } },
});
saga.createMachine({
  context: context(''),
  invoke: {
    src: 'reserve',
    input: { sku: 'book' },
    onDone: {
      // @ts-expect-error a field that the step does not give
      actions: assign({ reservationId: ({ event }) => event.output.id }),
    },
  },
});
saga.createMachine({
  context: context(''),
  invoke: {
    src: 'reserve',
    input: { sku: 'book' },
    onError: {
      // @ts-expect-error nothing is known of an error until it is narrowed
      guard: ({ event }) => event.error.code === 'OutOfStock',
    },
  },
});
saga.createMachine({
  context: context(''),
  invoke: {
    src: 'reserve',
    input: { sku: 'book' },
    onError: {
      // @ts-expect-error a code that the contract does not have
      guard: ({ event }) => isRejection(event.error, reserve, 'OutOfMoney'),
    },
  },
});

// ---------------------------------------------------------------- events, guards, delays, actions

saga.createMachine({
  context: context(''),
  on: {
    approve: {
      // @ts-expect-error a field that the signal does not have
      guard: ({ event }) => event.whom === 'grace',
    },
  },
});
saga.createMachine({
  context: context(''),
  on: {
    // @ts-expect-error an event that was not declared
    aprove: {},
  },
});
saga.createMachine({
  context: context(''),
  on: {
    // @ts-expect-error a cancel can be handled when CancelEvent is among the events
    'saga.cancel': {},
  },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error a guard that was not set up
  on: { again: { guard: 'fewLeft' } },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error a guard's parameter of another type
  on: { again: { guard: { type: 'manyLeft', params: { atLeast: '3' } } } },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error an action's parameter of another shape
  on: { again: { actions: { type: 'because', params: { why: 'so' } } } },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error a context of another type
  on: { again: { actions: assign({ left: 'none' }) } },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error an event raised that was not declared
  on: { again: { actions: raise({ type: 'never' }) } },
});
saga.createMachine({
  context: context(''),
  // @ts-expect-error a domain event that was not declared
  on: { again: { actions: emit({ type: 'Sold' }) } },
});
saga.createMachine({
  context: context(''),
  initial: 'a',
  states: {
    a: {
      // @ts-expect-error a tag that was not declared
      tags: 'opened',
    },
  },
});
// @ts-expect-error a context of another shape
saga.createMachine({ context: { sku: 'book' } });
saga.createMachine({
  context: context(''),
  // @ts-expect-error an output of another shape
  output: ({ context: { left } }) => ({ left }),
});
