-- Inventory: what is on the shelf, and what is held for an order.
-- Lock order: a reservation before its stock row; one stock row per command.
CREATE SCHEMA IF NOT EXISTS inventory;

CREATE TABLE IF NOT EXISTS inventory.stock (
  sku text PRIMARY KEY,
  -- Not held by anybody. Updated by every reservation, so pages keep room for it.
  available bigint NOT NULL CHECK (available >= 0)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS inventory.reservations (
  reservation_id text PRIMARY KEY,
  order_id text NOT NULL,
  sku text NOT NULL REFERENCES inventory.stock,
  quantity bigint NOT NULL CHECK (quantity > 0),
  state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'released')),
  changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS reservations_by_order ON inventory.reservations (order_id);

INSERT INTO inventory.stock (sku, available) VALUES
  ('book', 1000000), ('lamp', 1000000), ('chair', 1000000),
  -- There is one left, and none.
  ('last-one', 1), ('sold-out', 0)
ON CONFLICT DO NOTHING;
-- Many articles, so that load does not meet in one row.
INSERT INTO inventory.stock (sku, available)
  SELECT 'item-' || lpad(n::text, 3, '0'), 1000000 FROM generate_series(1, 100) AS n
ON CONFLICT DO NOTHING;
