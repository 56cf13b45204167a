/**
 * The sagas that the benchmark runs: an order of three remote steps, and one that only sleeps.
 *
 * Guards that every system does the same: reserve, charge, ship; a rejected third step leaves two
 * compensations. Loaded by the engine as SAGAX_DEFINITIONS.
 */
import { assign, setup } from 'xstate';
import { z } from 'zod';
import {
  command,
  compensatable,
  compensateAll,
  defineSaga,
  pivot,
  type AnyDefinition,
} from '../engine/core/index.ts';

const booked = z.object({ bookingId: z.string() });

export const reserve = command('shop.reserve', {
  input: z.object({ orderId: z.string() }),
  output: booked,
});
export const release = command('shop.release', { input: booked, output: z.object({}) });
export const charge = command('shop.charge', {
  input: z.object({ orderId: z.string() }),
  output: booked,
});
export const refund = command('shop.refund', { input: booked, output: z.object({}) });
export const ship = command('shop.ship', {
  input: z.object({ orderId: z.string(), fail: z.boolean() }),
  output: booked,
  rejections: { Unserviceable: z.object({}) },
});

interface OrderContext {
  orderId: string;
  fail: boolean;
  bookingId: string | null;
}

const orderMachine = setup({
  types: {
    input: {} as { orderId: string; fail: boolean },
    context: {} as OrderContext,
  },
  actors: {
    reserve: compensatable(reserve, {
      compensateWith: release,
      compensation: ({ output }) => ({ bookingId: output.bookingId }),
    }),
    charge: compensatable(charge, {
      compensateWith: refund,
      compensation: ({ output }) => ({ bookingId: output.bookingId }),
    }),
    ship: pivot(ship),
    compensate: compensateAll(),
  },
}).createMachine({
  id: 'order',
  context: ({ input }) => ({ ...input, bookingId: null }),
  initial: 'reserving',
  states: {
    reserving: {
      invoke: {
        src: 'reserve',
        input: ({ context }) => ({ orderId: context.orderId }),
        onDone: {
          target: 'charging',
          actions: assign({ bookingId: ({ event }) => event.output.bookingId }),
        },
        onError: 'compensating',
      },
    },
    charging: {
      invoke: {
        src: 'charge',
        input: ({ context }) => ({ orderId: context.orderId }),
        onDone: 'shipping',
        onError: 'compensating',
      },
    },
    shipping: {
      invoke: {
        src: 'ship',
        input: ({ context }) => ({ orderId: context.orderId, fail: context.fail }),
        onDone: 'completed',
        onError: 'compensating',
      },
    },
    compensating: { invoke: { src: 'compensate', onDone: 'cancelled' } },
    completed: { type: 'final' },
    cancelled: { type: 'final' },
  },
});

const sleeperMachine = setup({
  types: {
    input: {} as { delayMs: number },
    context: {} as { delayMs: number },
    events: {} as { type: 'go' },
  },
  delays: { WAKE: ({ context }) => context.delayMs },
}).createMachine({
  id: 'sleeper',
  context: ({ input }) => input,
  initial: 'sleeping',
  states: {
    sleeping: { after: { WAKE: 'awake' }, on: { go: 'awake' } },
    awake: { type: 'final' },
  },
});

export const order = defineSaga({
  name: 'order',
  version: 1,
  machine: orderMachine,
  input: z.object({ orderId: z.string(), fail: z.boolean() }),
});

export const sleeper = defineSaga({
  name: 'sleeper',
  version: 1,
  machine: sleeperMachine,
  input: z.object({ delayMs: z.number() }),
  signals: { go: z.object({}) },
});

export const definitions: readonly AnyDefinition[] = [order, sleeper];
