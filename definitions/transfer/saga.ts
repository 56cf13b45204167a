/**
 * The transfer saga: money from an account of one bank to an account of another.
 *
 * Guards that money is neither made nor lost: balances of both banks and what is under way between
 * them always add up to the same total. The credit is the pivot: once the receiver has the money,
 * it stays there.
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
} from '../../engine/core/index.ts';
import { known } from '../known.ts';
import { credit, debit, reverseDebit, sendTransferReceipt } from './contracts.ts';

export const transferInput = z.object({
  transferId: z.string().min(1).max(100),
  /** Account at bank A. */
  from: z.string().min(1).max(100),
  /** Account at bank B. */
  to: z.string().min(1).max(100),
  amountCents: z.int().positive(),
  email: z.email(),
});
export type TransferInput = z.output<typeof transferInput>;

/** What the saga ends with, as a caller sees it. */
export interface TransferOutput {
  outcome: 'completed' | 'cancelled';
  debitEntry: string | null;
  creditEntry: string | null;
  /** Why it was cancelled; null when it was completed. */
  reason: Failure | null;
}

interface TransferContext extends TransferInput {
  debitEntry: string | null;
  creditEntry: string | null;
  reason: Failure | null;
}

export const transferMachine = setup({
  types: {
    input: {} as TransferInput,
    context: {} as TransferContext,
    events: {} as CancelEvent,
    output: {} as TransferOutput,
    tags: {} as 'cancellable' | 'compensating' | 'past-pivot',
  },
  actors: {
    debit: compensatable(debit, {
      compensateWith: reverseDebit,
      compensation: ({ output }) => ({ entryId: output.entryId }),
      timeout: '1m',
    }),
    credit: pivot(credit, { timeout: '1m' }),
    sendReceipt: retriable(sendTransferReceipt),
    compensate: compensateAll(),
  },
  actions: {
    because: assign((_, reason: Failure) => ({ reason })),
  },
}).createMachine({
  id: 'transfer',
  context: ({ input }) => ({ ...input, debitEntry: null, creditEntry: null, reason: null }),
  initial: 'moving',
  states: {
    // All that can still be taken back, so that a cancel has one place to be handled.
    moving: {
      tags: 'cancellable',
      on: {
        'saga.cancel': {
          target: 'compensating',
          actions: {
            type: 'because',
            params: ({ event }) => ({ code: 'CANCELLED', message: event.reason }),
          },
        },
      },
      initial: 'debiting',
      states: {
        debiting: {
          invoke: {
            src: 'debit',
            input: ({ context: { transferId, from, amountCents } }) => ({
              transferId,
              account: from,
              amountCents,
            }),
            onDone: {
              target: 'crediting',
              actions: assign({ debitEntry: ({ event }) => event.output.entryId }),
            },
            onError: {
              target: '#transfer.compensating',
              actions: { type: 'because', params: ({ event }) => failureOf(event.error) },
            },
          },
        },
        crediting: {
          invoke: {
            src: 'credit',
            input: ({ context: { transferId, to, amountCents } }) => ({
              transferId,
              account: to,
              amountCents,
            }),
            onDone: {
              target: '#transfer.notifying',
              actions: assign({ creditEntry: ({ event }) => event.output.entryId }),
            },
            onError: {
              target: '#transfer.compensating',
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
        input: ({ context }) => ({
          transferId: context.transferId,
          email: context.email,
          amountCents: context.amountCents,
          debitEntry: known(context.debitEntry, 'debitEntry'),
          creditEntry: known(context.creditEntry, 'creditEntry'),
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
  output: ({ context: { debitEntry, creditEntry, reason } }) => ({
    outcome: creditEntry === null ? 'cancelled' : 'completed',
    debitEntry,
    creditEntry,
    reason,
  }),
});

export const transfer = defineSaga({
  name: 'transfer',
  version: 1,
  description: 'Moves money from an account at bank A to an account at bank B.',
  machine: transferMachine,
  input: transferInput,
});
