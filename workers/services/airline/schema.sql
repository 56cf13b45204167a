-- Airline: flights with their free seats, and bookings.
-- Lock order: a booking before its flight; one flight per command.
CREATE SCHEMA IF NOT EXISTS airline;

CREATE TABLE IF NOT EXISTS airline.flights (
  flight text PRIMARY KEY,
  seats_free integer NOT NULL CHECK (seats_free >= 0),
  -- Only goes up, so a seat that was given back is not handed out with a booking still on its way.
  seats_given integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS airline.bookings (
  booking_id text PRIMARY KEY,
  trip_id text NOT NULL,
  flight text NOT NULL REFERENCES airline.flights,
  seat text NOT NULL,
  traveller text NOT NULL,
  state text NOT NULL DEFAULT 'booked' CHECK (state IN ('booked', 'cancelled')),
  changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS bookings_by_trip ON airline.bookings (trip_id);

INSERT INTO airline.flights (flight, seats_free) VALUES
  ('SG100', 1000000), ('SG200', 1000000), ('SG300', 1000000),
  -- Full.
  ('SG404', 0)
ON CONFLICT DO NOTHING;
