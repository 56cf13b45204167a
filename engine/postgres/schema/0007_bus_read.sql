-- breaking: false
--
-- Reading the bus as a long poll: the server looks again and again, and answers when there is something.
--
-- A reader that asks each millisecond spends far more on asking (packets, wake-ups, plans) than on looking. Here one
-- call looks up to `looks` times, `pause_ms` apart, the first time after `first_ms`. Every look has a snapshot of its
-- own, and goes to the messages of a partition only when its next_offset says that there are new ones.
--
-- Lock order: none, it only makes a function, which only reads.

CREATE FUNCTION sagax.bus_read(
  ids int[], froms bigint[], counts int[], max_bytes int, first_ms float8, pause_ms float8, looks int
) RETURNS TABLE (lane bigint, "offset" bigint, key text, headers text, value text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  IF first_ms > 0 THEN
    PERFORM pg_sleep(first_ms / 1000);
  END IF;
  FOR look IN 1..looks LOOP
    RETURN QUERY
    SELECT w.lane, m."offset", m.key, m.headers, m.value
      FROM unnest(ids, froms, counts) WITH ORDINALITY AS w (id, from_offset, messages, lane)
      JOIN sagax.bus_partitions p ON p.id = w.id AND p.next_offset > w.from_offset
     CROSS JOIN LATERAL (
       SELECT l.*, sum(octet_length(l.value)) OVER (ORDER BY l."offset") - octet_length(l.value) AS before
         FROM (SELECT * FROM sagax.bus_messages b
                WHERE b.partition_id = w.id AND b."offset" >= w.from_offset
                ORDER BY b."offset" LIMIT w.messages) l
     ) m
     WHERE m.before IS NULL OR m.before < max_bytes
     ORDER BY w.lane, m."offset";
    EXIT WHEN FOUND OR look = looks;
    PERFORM pg_sleep(pause_ms / 1000);
  END LOOP;
END $$;
