-- The simulated payment gateway's own books. They are another company's: no transaction of a
-- participant spans them, and nobody but the gateway touches them. Each request locks one row per table.
CREATE SCHEMA IF NOT EXISTS payment_gateway;

-- Every idempotency key seen: how often, and with which greatest fencing token.
CREATE TABLE IF NOT EXISTS payment_gateway.requests (
  idempotency_key text PRIMARY KEY,
  requests integer NOT NULL,
  fencing_token numeric NOT NULL
) WITH (fillfactor = 70);

-- One operation per idempotency key; never changed.
CREATE TABLE IF NOT EXISTS payment_gateway.operations (
  idempotency_key text PRIMARY KEY,
  operation_id text NOT NULL UNIQUE,
  kind text NOT NULL CHECK (kind IN ('charge', 'refund')),
  status text NOT NULL CHECK (status IN ('succeeded', 'declined', 'awaitingHolder')),
  target text NOT NULL,
  amount_cents bigint NOT NULL CHECK (amount_cents > 0),
  decline_code text,
  at timestamptz NOT NULL DEFAULT now()
);
-- A charge is refunded at most once.
CREATE UNIQUE INDEX IF NOT EXISTS operations_one_refund
  ON payment_gateway.operations (target) WHERE kind = 'refund';
