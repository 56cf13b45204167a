-- Cars: what stands free in each city, and rentals.
-- Lock order: a rental before its fleet row; one fleet row per command.
CREATE SCHEMA IF NOT EXISTS cars;

CREATE TABLE IF NOT EXISTS cars.fleet (
  city text NOT NULL,
  car_class text NOT NULL,
  cars_free integer NOT NULL CHECK (cars_free >= 0),
  PRIMARY KEY (city, car_class)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS cars.rentals (
  booking_id text PRIMARY KEY,
  trip_id text NOT NULL,
  city text NOT NULL,
  car_class text NOT NULL,
  days integer NOT NULL CHECK (days > 0),
  state text NOT NULL DEFAULT 'booked' CHECK (state IN ('booked', 'cancelled')),
  changed_at timestamptz NOT NULL DEFAULT now(),
  FOREIGN KEY (city, car_class) REFERENCES cars.fleet
);
CREATE INDEX IF NOT EXISTS rentals_by_trip ON cars.rentals (trip_id);

INSERT INTO cars.fleet (city, car_class, cars_free) VALUES
  ('lisbon', 'compact', 1000000), ('lisbon', 'estate', 1000000), ('oslo', 'compact', 1000000),
  -- All out.
  ('lisbon', 'van', 0)
ON CONFLICT DO NOTHING;
