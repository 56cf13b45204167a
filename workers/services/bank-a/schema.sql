-- Bank A: accounts, and entries for the transfers that leave it.
-- An account's balance is its opening balance plus the sum of its entries, in every committed state.
-- Lock order: an account before its entries; one account per command.
CREATE SCHEMA IF NOT EXISTS bank_a;

CREATE TABLE IF NOT EXISTS bank_a.accounts (
  account text PRIMARY KEY,
  opening_cents bigint NOT NULL,
  balance_cents bigint NOT NULL CHECK (balance_cents >= 0),
  closed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS bank_a.entries (
  entry_id text PRIMARY KEY,
  transfer_id text NOT NULL,
  account text NOT NULL REFERENCES bank_a.accounts,
  -- As the account sees it: what leaves it is negative.
  amount_cents bigint NOT NULL CHECK (amount_cents <> 0),
  -- The debit that this entry gives back; at most one does.
  reverses text UNIQUE REFERENCES bank_a.entries,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS entries_by_transfer ON bank_a.entries (transfer_id);

INSERT INTO bank_a.accounts (account, opening_cents, balance_cents, closed) VALUES
  ('alice', 1000000, 1000000, false), ('anton', 500000, 500000, false),
  -- Can't pay, and may not.
  ('a-poor', 100, 100, false), ('a-closed', 50000, 50000, true)
ON CONFLICT DO NOTHING;
-- Many accounts, so that load does not meet in one row.
INSERT INTO bank_a.accounts (account, opening_cents, balance_cents)
  SELECT 'a-' || lpad(n::text, 3, '0'), 100000000, 100000000 FROM generate_series(1, 100) AS n
ON CONFLICT DO NOTHING;
