-- Shipping: where we deliver, and the parcels handed over. Each command locks only the row it adds.
CREATE SCHEMA IF NOT EXISTS shipping;

CREATE TABLE IF NOT EXISTS shipping.countries (
  country text PRIMARY KEY,
  served boolean NOT NULL
);

CREATE TABLE IF NOT EXISTS shipping.parcels (
  tracking_id text PRIMARY KEY,
  order_id text NOT NULL,
  reservation_id text NOT NULL,
  address jsonb NOT NULL,
  handed_over_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS parcels_by_order ON shipping.parcels (order_id);

INSERT INTO shipping.countries (country, served) VALUES
  ('AT', true), ('CH', true), ('DE', true), ('ES', true), ('FR', true), ('GB', true), ('IT', true),
  ('NL', true), ('PL', true), ('PT', true), ('SE', true), ('US', true),
  -- Known, and not served.
  ('AQ', false)
ON CONFLICT DO NOTHING;
