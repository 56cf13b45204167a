/**
 * The order saga: reserve, charge, perhaps ask a person, ship, send the receipt.
 *
 * Guards that nobody pays for what is not shipped: until the parcel is handed over (the pivot) a
 * failure, a decline, a cancel or a late approval gives back money and stock; after it the saga only
 * goes forward. A cancelled order notifies nobody.
 */
import { z } from 'zod';
import { assign, setup } from 'xstate';
import {
  compensatable,
  compensateAll,
  defineSaga,
  failureOf,
  pivot,
  retriable,
  type CancelEvent,
  type Failure,
  type SignalEvent,
} from '../../engine/core/index.ts';
import { known } from '../known.ts';
import {
  addressSchema,
  chargeCard,
  refundCard,
  releaseStock,
  reserveStock,
  sendReceipt,
  shipOrder,
} from './contracts.ts';

/** Orders above this wait for a person: 1,000.00. */
export const APPROVAL_LIMIT_CENTS = 100_000;
const DAY_MS = 86_400_000;

export const orderInput = z.object({
  orderId: z.string().min(1).max(100),
  email: z.email(),
  sku: z.string().min(1).max(100),
  quantity: z.int().positive().max(1_000),
  amountCents: z.int().positive(),
  card: z.string().min(1).max(100),
  address: addressSchema,
  /** How long a person has to approve; then the order is cancelled. Default: a day; at most a year. */
  approvalTimeoutMs: z
    .int()
    .positive()
    .max(365 * DAY_MS)
    .default(DAY_MS),
});
export type OrderInput = z.output<typeof orderInput>;

export const orderSignals = {
  approve: z.object({ by: z.string().min(1).max(200) }),
  decline: z.object({ by: z.string().min(1).max(200), reason: z.string().max(1_000) }),
};

/** What the saga ends with, as a caller sees it. */
export interface OrderOutput {
  outcome: 'completed' | 'cancelled';
  reservationId: string | null;
  paymentId: string | null;
  trackingId: string | null;
  /** Why it was cancelled; null when it was completed. */
  reason: Failure | null;
}

interface OrderContext extends OrderInput {
  reservationId: string | null;
  paymentId: string | null;
  trackingId: string | null;
  approvedBy: string | null;
  reason: Failure | null;
}

export const orderMachine = setup({
  types: {
    input: {} as OrderInput,
    context: {} as OrderContext,
    events: {} as SignalEvent<typeof orderSignals> | CancelEvent,
    output: {} as OrderOutput,
    tags: {} as 'cancellable' | 'waiting-for-person' | 'compensating' | 'past-pivot',
  },
  actors: {
    reserve: compensatable(reserveStock, {
      compensateWith: releaseStock,
      compensation: ({ output }) => ({ reservationId: output.reservationId }),
      timeout: '30s',
    }),
    charge: compensatable(chargeCard, {
      compensateWith: refundCard,
      compensation: ({ output }) => ({ paymentId: output.paymentId }),
      // Some cards ask their holder to confirm, so the answer may take minutes.
      timeout: '15m',
    }),
    ship: pivot(shipOrder, { timeout: '1m' }),
    sendReceipt: retriable(sendReceipt),
    compensate: compensateAll(),
  },
  actions: {
    because: assign((_, reason: Failure) => ({ reason })),
  },
  guards: {
    needsApproval: ({ context }) => context.amountCents > APPROVAL_LIMIT_CENTS,
  },
  delays: {
    approvalTimeout: ({ context }) => context.approvalTimeoutMs,
  },
}).createMachine({
  id: 'order',
  context: ({ input }) => ({
    ...input,
    reservationId: null,
    paymentId: null,
    trackingId: null,
    approvedBy: null,
    reason: null,
  }),
  initial: 'placing',
  states: {
    // All that can still be taken back, so that a cancel has one place to be handled.
    placing: {
      tags: 'cancellable',
      initial: 'reserving',
      on: {
        'saga.cancel': {
          target: 'compensating',
          actions: {
            type: 'because',
            params: ({ event }) => ({ code: 'CANCELLED', message: event.reason }),
          },
        },
      },
      states: {
        reserving: {
          invoke: {
            src: 'reserve',
            input: ({ context: { orderId, sku, quantity } }) => ({ orderId, sku, quantity }),
            onDone: {
              target: 'charging',
              actions: assign({ reservationId: ({ event }) => event.output.reservationId }),
            },
            onError: {
              target: '#order.compensating',
              actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
            },
          },
        },
        charging: {
          invoke: {
            src: 'charge',
            input: ({ context: { orderId, card, amountCents } }) => ({
              orderId,
              card,
              amountCents,
            }),
            onDone: {
              target: 'charged',
              actions: assign({ paymentId: ({ event }) => event.output.paymentId }),
            },
            onError: {
              target: '#order.compensating',
              actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
            },
          },
        },
        charged: {
          always: [{ guard: 'needsApproval', target: 'awaitingApproval' }, { target: 'shipping' }],
        },
        awaitingApproval: {
          tags: 'waiting-for-person',
          on: {
            approve: {
              target: 'shipping',
              actions: assign({ approvedBy: ({ event }) => event.by }),
            },
            decline: {
              target: '#order.compensating',
              actions: {
                type: 'because',
                params: ({ event }) => ({
                  code: 'Declined',
                  message: `${event.by}: ${event.reason}`,
                }),
              },
            },
          },
          after: {
            approvalTimeout: {
              target: '#order.compensating',
              actions: {
                type: 'because',
                params: { code: 'ApprovalTimedOut', message: 'Nobody approved the order in time.' },
              },
            },
          },
        },
        shipping: {
          invoke: {
            src: 'ship',
            input: ({ context: { orderId, reservationId, address } }) => ({
              orderId,
              reservationId: known(reservationId, 'reservationId'),
              address,
            }),
            onDone: {
              target: '#order.notifying',
              actions: assign({ trackingId: ({ event }) => event.output.trackingId }),
            },
            onError: {
              target: '#order.compensating',
              actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
            },
          },
        },
      },
    },
    notifying: {
      tags: 'past-pivot',
      invoke: {
        src: 'sendReceipt',
        input: ({ context: { orderId, email, amountCents, paymentId, trackingId } }) => ({
          orderId,
          email,
          amountCents,
          paymentId: known(paymentId, 'paymentId'),
          trackingId: known(trackingId, 'trackingId'),
        }),
        onDone: 'completed',
      },
    },
    compensating: {
      tags: 'compensating',
      invoke: { src: 'compensate', onDone: 'cancelled' },
    },
    completed: { type: 'final' },
    cancelled: { type: 'final' },
  },
  output: ({ context: { reservationId, paymentId, trackingId, reason } }) => ({
    outcome: trackingId === null ? 'cancelled' : 'completed',
    reservationId,
    paymentId,
    trackingId,
    reason,
  }),
});

export const order = defineSaga({
  name: 'order',
  version: 1,
  description: 'Sells one article: reserves it, charges the card, ships it, sends the receipt.',
  machine: orderMachine,
  input: orderInput,
  signals: orderSignals,
});
