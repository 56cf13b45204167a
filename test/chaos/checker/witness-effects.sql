-- The witness of the participants, in the database that they share; witness.sql was put into it before.
--
--   witness.effects      what participants really did, in the order in which they did it (I6, I8)
--   witness.books        what each participant's books add up to, and what they did at the beginning (I8)
--
-- The ledgers' own primary keys are dropped: a second application of a command is then a second row that can
-- be counted, and the barrier of the worker runtime is the only thing that keeps it out (I8). The gateway is
-- another company's and keeps its key.
CREATE TABLE witness.effects (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  service text NOT NULL,
  command_id text NOT NULL
);

-- Arguments: the service, and the column whose value is "<prefix>-<command id>". A row that is changed later was
-- taken back by the compensation of its command.
CREATE FUNCTION witness.note_effect() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  id text := to_jsonb(NEW) ->> TG_ARGV[1];
BEGIN
  INSERT INTO witness.effects (service, command_id)
    VALUES (TG_ARGV[0], substring(id FROM position('-' IN id) + 1) || CASE TG_OP WHEN 'UPDATE' THEN '.c' ELSE '' END);
  RETURN NULL;
END $$;
CREATE FUNCTION witness.note_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.effects (service, command_id) VALUES ('payments', NEW.idempotency_key);
  RETURN NULL;
END $$;

ALTER TABLE inventory.reservations DROP CONSTRAINT reservations_pkey;
CREATE INDEX ON inventory.reservations (reservation_id);
CREATE TRIGGER witness_effect AFTER INSERT OR UPDATE ON inventory.reservations
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('inventory', 'reservation_id');

ALTER TABLE airline.bookings DROP CONSTRAINT bookings_pkey;
CREATE INDEX ON airline.bookings (booking_id);
CREATE TRIGGER witness_effect AFTER INSERT OR UPDATE ON airline.bookings
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('airline', 'booking_id');

ALTER TABLE hotels.stays DROP CONSTRAINT stays_pkey;
CREATE INDEX ON hotels.stays (booking_id);
CREATE TRIGGER witness_effect AFTER INSERT OR UPDATE ON hotels.stays
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('hotels', 'booking_id');

ALTER TABLE cars.rentals DROP CONSTRAINT rentals_pkey;
CREATE INDEX ON cars.rentals (booking_id);
CREATE TRIGGER witness_effect AFTER INSERT OR UPDATE ON cars.rentals
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('cars', 'booking_id');

ALTER TABLE bank_a.entries DROP CONSTRAINT entries_reverses_key;
ALTER TABLE bank_a.entries DROP CONSTRAINT entries_pkey CASCADE;
CREATE INDEX ON bank_a.entries (entry_id);
CREATE INDEX ON bank_a.entries (reverses);
CREATE TRIGGER witness_effect AFTER INSERT ON bank_a.entries
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('bank-a', 'entry_id');

ALTER TABLE bank_b.entries DROP CONSTRAINT entries_pkey;
CREATE INDEX ON bank_b.entries (entry_id);
CREATE TRIGGER witness_effect AFTER INSERT ON bank_b.entries
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('bank-b', 'entry_id');

ALTER TABLE shipping.parcels DROP CONSTRAINT parcels_pkey;
CREATE INDEX ON shipping.parcels (tracking_id);
CREATE TRIGGER witness_effect AFTER INSERT ON shipping.parcels
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('shipping', 'tracking_id');

ALTER TABLE notifications.messages DROP CONSTRAINT messages_pkey;
CREATE INDEX ON notifications.messages (message_id);
CREATE TRIGGER witness_effect AFTER INSERT ON notifications.messages
  FOR EACH ROW EXECUTE FUNCTION witness.note_effect('notifications', 'message_id');

CREATE TRIGGER witness_payment AFTER INSERT ON payment_gateway.operations
  FOR EACH ROW WHEN (NEW.status = 'succeeded') EXECUTE FUNCTION witness.note_payment();

-- What each participant's books must add up to, whatever happens: free and taken together, openings and entries.
CREATE VIEW witness.books AS
  SELECT 'inventory' AS service, s.sku AS item, (s.available + coalesce(r.held, 0))::text AS total
    FROM inventory.stock s LEFT JOIN (
      SELECT sku, sum(quantity) AS held FROM inventory.reservations WHERE state = 'held' GROUP BY sku) r USING (sku)
  UNION ALL
  SELECT 'airline', f.flight, (f.seats_free + coalesce(b.n, 0))::text
    FROM airline.flights f LEFT JOIN (
      SELECT flight, count(*) AS n FROM airline.bookings WHERE state = 'booked' GROUP BY flight) b USING (flight)
  UNION ALL
  SELECT 'hotels', h.hotel, (h.rooms_free + coalesce(s.n, 0))::text
    FROM hotels.hotels h LEFT JOIN (
      SELECT hotel, count(*) AS n FROM hotels.stays WHERE state = 'booked' GROUP BY hotel) s USING (hotel)
  UNION ALL
  SELECT 'cars', f.city || ' ' || f.car_class, (f.cars_free + coalesce(r.n, 0))::text
    FROM cars.fleet f LEFT JOIN (
      SELECT city, car_class, count(*) AS n FROM cars.rentals WHERE state = 'booked' GROUP BY city, car_class) r
      USING (city, car_class)
  UNION ALL
  SELECT 'bank-a', a.account, (a.balance_cents - coalesce(e.moved, 0))::text
    FROM bank_a.accounts a LEFT JOIN (
      SELECT account, sum(amount_cents) AS moved FROM bank_a.entries GROUP BY account) e USING (account)
  UNION ALL
  SELECT 'bank-b', a.account, (a.balance_cents - coalesce(e.moved, 0))::text
    FROM bank_b.accounts a LEFT JOIN (
      SELECT account, sum(amount_cents) AS moved FROM bank_b.entries GROUP BY account) e USING (account);
CREATE TABLE witness.opening_books AS SELECT * FROM witness.books;
