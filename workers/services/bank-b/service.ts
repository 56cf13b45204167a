/**
 * Bank B: takes money in for a transfer.
 *
 * Guards that every change of a balance has its entry in the same transaction, so that no money is
 * made or lost. What came in stays in: there is no command to take it back.
 */
import { credit } from '../../../definitions/transfer/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function bankBHandlers(): Handler<Sql>[] {
  return [
    transactional(credit, async ({ input, tx, commandId, reject }) => {
      const { account, amountCents, transferId } = input;
      const entryId = `b-${commandId}`;
      const row = await first<{ closed: boolean }>(
        tx,
        'SELECT closed FROM bank_b.accounts WHERE account = $1 FOR UPDATE',
        [account],
      );
      if (row === undefined) return reject('AccountUnknown', { account });
      if (row.closed) return reject('AccountClosed', { account });
      await tx.query(
        `WITH entry AS (
           INSERT INTO bank_b.entries (entry_id, transfer_id, account, amount_cents)
           VALUES ($1, $2, $3, $4) RETURNING account, amount_cents)
         UPDATE bank_b.accounts AS a SET balance_cents = a.balance_cents + e.amount_cents
           FROM entry AS e WHERE a.account = e.account`,
        [entryId, transferId, account, amountCents],
      );
      return { entryId };
    }),
  ];
}

export const bankB: ExampleService = {
  service: 'bank-b',
  schema: 'bank_b',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: bankBHandlers,
};
