-- Hotels: houses with their free rooms, and stays.
-- Lock order: a stay before its hotel; one hotel per command.
CREATE SCHEMA IF NOT EXISTS hotels;

CREATE TABLE IF NOT EXISTS hotels.hotels (
  hotel text PRIMARY KEY,
  rooms_free integer NOT NULL CHECK (rooms_free >= 0)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS hotels.stays (
  booking_id text PRIMARY KEY,
  trip_id text NOT NULL,
  hotel text NOT NULL REFERENCES hotels.hotels,
  nights integer NOT NULL CHECK (nights > 0),
  traveller text NOT NULL,
  state text NOT NULL DEFAULT 'booked' CHECK (state IN ('booked', 'cancelled')),
  changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS stays_by_trip ON hotels.stays (trip_id);

INSERT INTO hotels.hotels (hotel, rooms_free) VALUES
  ('grand', 1000000), ('plaza', 1000000),
  -- No room left.
  ('full-house', 0)
ON CONFLICT DO NOTHING;
