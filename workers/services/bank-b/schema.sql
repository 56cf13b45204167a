-- Bank B: accounts, and entries for the transfers that come in.
-- An account's balance is its opening balance plus the sum of its entries, in every committed state.
-- Lock order: an account before its entries; one account per command.
CREATE SCHEMA IF NOT EXISTS bank_b;

CREATE TABLE IF NOT EXISTS bank_b.accounts (
  account text PRIMARY KEY,
  opening_cents bigint NOT NULL,
  balance_cents bigint NOT NULL CHECK (balance_cents >= 0),
  closed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS bank_b.entries (
  entry_id text PRIMARY KEY,
  transfer_id text NOT NULL,
  account text NOT NULL REFERENCES bank_b.accounts,
  -- As the account sees it: what comes in is positive.
  amount_cents bigint NOT NULL CHECK (amount_cents > 0),
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS entries_by_transfer ON bank_b.entries (transfer_id);

INSERT INTO bank_b.accounts (account, opening_cents, balance_cents, closed) VALUES
  ('bob', 0, 0, false), ('berta', 250000, 250000, false),
  -- Takes nothing any more.
  ('b-closed', 0, 0, true)
ON CONFLICT DO NOTHING;
INSERT INTO bank_b.accounts (account, opening_cents, balance_cents)
  SELECT 'b-' || lpad(n::text, 3, '0'), 0, 0 FROM generate_series(1, 100) AS n
ON CONFLICT DO NOTHING;
