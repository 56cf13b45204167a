-- The witness of a log: what the system under test can't be asked about itself, noted by the database as it happens.
--
-- Put into each database of the log while its tables are still empty (test/chaos/checker/witness.ts). Everything in it
-- is read by the checker only; nothing of the product knows of it. What participants do is in witness-effects.sql.
--
--   witness.epochs       each take-over of a shard, with the shard_seq from which its epoch writes (I2)
--   witness.regressions  a position of a shard that went back (I1, I4, I10)
--   events.witnessed_at_ms   when a row was written, by the database's clock and not by the writer's word (I11)
CREATE SCHEMA witness;

CREATE TABLE witness.epochs (
  shard int NOT NULL,
  epoch bigint NOT NULL,
  owner text,
  from_seq bigint NOT NULL,
  at_ms bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
);

-- Runs under the lock of the take-over, which has waited for appends under way: the position is final.
CREATE FUNCTION witness.note_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.epochs (shard, epoch, owner, from_seq)
    SELECT NEW.shard, NEW.epoch, NEW.owner, p.next_seq
      FROM sagax.shard_positions p WHERE p.shard = NEW.shard;
  RETURN NULL;
END $$;
CREATE TRIGGER witness_epoch AFTER UPDATE OF epoch ON sagax.shards
  FOR EACH ROW EXECUTE FUNCTION witness.note_epoch();
-- Shards that were taken before; the trigger's lock keeps others out until this commits.
INSERT INTO witness.epochs (shard, epoch, owner, from_seq)
  SELECT shard, epoch, owner, next_seq FROM sagax.shards JOIN sagax.shard_positions USING (shard) WHERE epoch > 0;

CREATE TABLE witness.regressions (
  shard int NOT NULL,
  what text NOT NULL
);
CREATE FUNCTION witness.note_regression() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO witness.regressions VALUES (NEW.shard,
    format('next_offset %s to %s, next_seq %s to %s, published_seq %s to %s', OLD.next_offset, NEW.next_offset,
      OLD.next_seq, NEW.next_seq, OLD.published_seq, NEW.published_seq));
  RETURN NULL;
END $$;
CREATE TRIGGER witness_regression AFTER UPDATE ON sagax.shard_positions FOR EACH ROW
  WHEN (NEW.next_offset < OLD.next_offset OR NEW.next_seq < OLD.next_seq OR NEW.published_seq < OLD.published_seq)
  EXECUTE FUNCTION witness.note_regression();

ALTER TABLE sagax.events ADD COLUMN witnessed_at_ms bigint
  DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
