/**
 * Bank A: pays money out for a transfer, and gives it back if the transfer can't go on.
 *
 * Guards that no account is overdrawn, and that every change of a balance has its entry in the same
 * transaction, so that no money is made or lost.
 */
import { debit, reverseDebit } from '../../../definitions/transfer/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function bankAHandlers(): Handler<Sql>[] {
  return [
    transactional(debit, async ({ input, tx, commandId, reject }) => {
      const { account, amountCents, transferId } = input;
      const entryId = `a-${commandId}`;
      // The row is locked before it is judged, so the reason for a "no" is the one that holds now.
      const row = await first<{ balance_cents: string; closed: boolean }>(
        tx,
        'SELECT balance_cents, closed FROM bank_a.accounts WHERE account = $1 FOR UPDATE',
        [account],
      );
      if (row === undefined) return reject('AccountUnknown', { account });
      if (row.closed) return reject('AccountClosed', { account });
      const balanceCents = Number(row.balance_cents);
      if (balanceCents < amountCents) return reject('InsufficientFunds', { account, balanceCents });
      await tx.query(
        `WITH entry AS (
           INSERT INTO bank_a.entries (entry_id, transfer_id, account, amount_cents)
           VALUES ($1, $2, $3, -($4::bigint)) RETURNING account, amount_cents)
         UPDATE bank_a.accounts AS a SET balance_cents = a.balance_cents + e.amount_cents
           FROM entry AS e WHERE a.account = e.account`,
        [entryId, transferId, account, amountCents],
      );
      return { entryId };
    }),

    transactional(reverseDebit, async ({ input, tx, commandId }) => {
      const entryId = `a-${commandId}`;
      const reversed = await first(
        tx,
        `WITH entry AS (
           INSERT INTO bank_a.entries (entry_id, transfer_id, account, amount_cents, reverses)
           SELECT $1, transfer_id, account, -amount_cents, entry_id
             FROM bank_a.entries WHERE entry_id = $2 AND amount_cents < 0
           RETURNING account, amount_cents)
         UPDATE bank_a.accounts AS a SET balance_cents = a.balance_cents + e.amount_cents
           FROM entry AS e WHERE a.account = e.account RETURNING a.account`,
        [entryId, input.entryId],
      );
      if (reversed === undefined) {
        throw new Error(`There is no debit ${input.entryId} to reverse; look into bank_a.entries.`);
      }
      return { entryId };
    }),
  ];
}

export const bankA: ExampleService = {
  service: 'bank-a',
  schema: 'bank_a',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: bankAHandlers,
};
