/** Compile-time: a definition's schemas fit its machine. Each mistake stands beside the same thing done right. */
import { createActor, fromPromise, setup } from 'xstate';
import { z } from 'zod';
import {
  compensateAll,
  defineSaga,
  pivot,
  type CancelEvent,
  type SignalEvent,
} from '../../engine/core/index.ts';
import { ship } from './fixtures.ts';

const signals = { approve: z.object({ by: z.string() }), hold: z.object({}) };

const machine = setup({
  types: {
    input: {} as { orderId: string; limit: number },
    context: {} as { orderId: string },
    events: {} as SignalEvent<typeof signals> | CancelEvent,
  },
  actors: { ship: pivot(ship), compensate: compensateAll() },
}).createMachine({
  context: ({ input }) => ({ orderId: input.orderId }),
  initial: 'waiting',
  states: {
    waiting: { on: { approve: 'shipping', hold: {} } },
    shipping: {
      invoke: {
        src: 'ship',
        input: { reservationId: 'r' },
        onDone: 'done',
        onError: 'compensating',
      },
    },
    compensating: { invoke: { src: 'compensate', onDone: 'done' } },
    done: { type: 'final' },
  },
});

const base = { name: 'shipping', version: 1 };
const input = z.object({ orderId: z.string(), limit: z.number().default(7) });

export const definition = defineSaga({ ...base, machine, input, signals });
// Fewer signals than events: the rest are the machine's own.
defineSaga({ ...base, machine, input, signals: { approve: signals.approve } });
defineSaga({ ...base, machine, input });
// More than the machine needs.
defineSaga({ ...base, machine, input: input.extend({ note: z.string() }) });

// @ts-expect-error the input lacks a field that the machine reads
defineSaga({ ...base, machine, input: z.object({ orderId: z.string() }), signals });
// @ts-expect-error a field of another type
defineSaga({ ...base, machine, input: z.object({ orderId: z.number(), limit: z.number() }) });
// @ts-expect-error a field that may be missing
defineSaga({ ...base, machine, input: input.extend({ limit: z.number().optional() }) });
// @ts-expect-error a signal that is not among the machine's events
defineSaga({ ...base, machine, input, signals: { ...signals, aprove: z.object({}) } });
// @ts-expect-error a signal's payload lacks a field
defineSaga({ ...base, machine, input, signals: { approve: z.object({}) } });
// @ts-expect-error a signal's payload has a field of another type
defineSaga({ ...base, machine, input, signals: { approve: z.object({ by: z.number() }) } });
// @ts-expect-error a signal's payload is an object
defineSaga({ ...base, machine, input, signals: { approve: z.string() } });
// @ts-expect-error a version is a number
defineSaga({ ...base, version: '1', machine, input });
// @ts-expect-error a saga needs an input schema
defineSaga({ ...base, machine });

// The schemas can be read back with their types.
export const parsed: { orderId: string; limit: number } = definition.input.parse({});
export const by: string = definition.signals.approve.parse({}).by;
// @ts-expect-error a signal that was not declared
definition.signals.decline;

// An author's own run of the machine is typed by the same events and contracts.
const actor = createActor(machine, { input: { orderId: 'o', limit: 1 } });
actor.send({ type: 'approve', by: 'grace' });
// @ts-expect-error the payload is missing
actor.send({ type: 'approve' });
// @ts-expect-error an event that the machine does not have
actor.send({ type: 'aprove', by: 'grace' });
// @ts-expect-error an input of another shape
createActor(machine, { input: { orderId: 'o' } });

machine.provide({ actors: { ship: fromPromise(async () => ({ trackingId: 't' })) } });
// @ts-expect-error a fake that gives another shape
machine.provide({ actors: { ship: fromPromise(async () => ({ tracking: 't' })) } });
// @ts-expect-error a fake for a step that the machine does not have
machine.provide({ actors: { shipp: fromPromise(async () => ({ trackingId: 't' })) } });
