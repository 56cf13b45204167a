/**
 * What the transfer saga and the two banks agree on.
 *
 * Each bank keeps its own books: what it paid out and what it took in for transfers. Amounts are
 * whole cents of one currency.
 */
import { z } from 'zod';
import { command } from '../../engine/core/index.ts';

const entry = z.object({ entryId: z.string() });
const posting = z.object({
  transferId: z.string(),
  account: z.string(),
  amountCents: z.int().positive(),
});
const account = z.object({ account: z.string() });

// ---------------------------------------------------------------- the sender's bank

export const debit = command('bank-a.debit', {
  input: posting,
  output: entry,
  rejections: {
    InsufficientFunds: account.extend({ balanceCents: z.int() }),
    AccountClosed: account,
    AccountUnknown: account,
  },
});

/** Gives the money back to the account it came from, even if that was closed meanwhile: it is owed. */
export const reverseDebit = command('bank-a.reverse-debit', { input: entry, output: entry });

// ---------------------------------------------------------------- the receiver's bank

export const credit = command('bank-b.credit', {
  input: posting,
  output: entry,
  rejections: { AccountClosed: account, AccountUnknown: account },
});

// ---------------------------------------------------------------- notifications

export const sendTransferReceipt = command('notifications.send-transfer-receipt', {
  input: z.object({
    transferId: z.string(),
    email: z.email(),
    amountCents: z.int().positive(),
    debitEntry: z.string(),
    creditEntry: z.string(),
  }),
  output: z.object({ messageId: z.string() }),
});
