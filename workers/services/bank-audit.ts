/**
 * The books of both banks side by side, in one look: what tests and demos check a run against.
 *
 * Guards the example's promise that money is neither made nor lost. Only reads; it works while the
 * two schemas are in one database, as they are in the example.
 */
import { first, type Sql } from './sql.ts';

export interface BankAudit {
  /** All accounts of both banks. */
  balancesCents: number;
  /** Paid out by A and neither taken in by B nor given back. 0 when no transfer is under way. */
  inFlightCents: number;
  /** The sum of both; it never changes. */
  totalCents: number;
  /** Accounts whose balance is not their opening balance plus their entries. Always 0. */
  accountsOff: number;
}

/** One statement, so one snapshot: true at one moment, even while transfers go on. */
export async function auditBanks(sql: Sql): Promise<BankAudit> {
  const row = await first<{ balances: string; entries: string; off: string }>(
    sql,
    `WITH accounts AS (
       SELECT balance_cents, opening_cents, (SELECT coalesce(sum(e.amount_cents), 0)
                FROM bank_a.entries AS e WHERE e.account = a.account) AS entered FROM bank_a.accounts AS a
       UNION ALL
       SELECT balance_cents, opening_cents, (SELECT coalesce(sum(e.amount_cents), 0)
                FROM bank_b.entries AS e WHERE e.account = b.account) FROM bank_b.accounts AS b)
     SELECT sum(balance_cents) AS balances, sum(entered) AS entries,
            count(*) FILTER (WHERE balance_cents <> opening_cents + entered) AS off
       FROM accounts`,
  );
  const balancesCents = Number(row?.balances ?? 0);
  const inFlightCents = 0 - Number(row?.entries ?? 0);
  return {
    balancesCents,
    inFlightCents,
    totalCents: balancesCents + inFlightCents,
    accountsOff: Number(row?.off ?? 0),
  };
}
