-- breaking: false
--
-- Ids of dead letters tell when they were parked: ms since 1970 above 14 bits of a sequence.
--
-- "Newest first" is then one order over all databases that a log is spread over. The sequence keeps ids of one
-- millisecond apart: 16,384 letters of one database in one millisecond are beyond what it can write. Letters from
-- before have small ids, so they stay the oldest.
--
-- Lock order: the table alone, for a moment.

ALTER TABLE sagax.dead_letters ALTER COLUMN id DROP IDENTITY;
CREATE SEQUENCE sagax.dead_letter_numbers OWNED BY sagax.dead_letters.id;
ALTER TABLE sagax.dead_letters ALTER COLUMN id
  SET DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 14) | (nextval('sagax.dead_letter_numbers') & 16383);
