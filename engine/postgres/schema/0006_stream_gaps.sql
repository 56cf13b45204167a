-- breaking: false
--
-- The look for gaps that an append makes (append.ts), as a function with an executor of its own.
--
-- An append that waits for a take-over has its rows checked again (EvalPlanQual). For that, Postgres 18 sets up the
-- whole plan anew and shares what run-time partition pruning has prepared with the plan that goes on: it is then read
-- after it was freed, and once in a while the backend dies of it, and with it every connection of the server.
-- Inside of a function the pruning is not part of the plan that is set up anew.
--
-- Lock order: none, it only makes a function.

CREATE FUNCTION sagax.stream_gaps(shards int[], saga_ids bigint[], versions int[])
  RETURNS TABLE (shard int, saga_id bigint) LANGUAGE plpgsql STABLE ROWS 1 AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT first.shard, min(first.saga_id)
  FROM unnest((SELECT shards), (SELECT saga_ids), (SELECT versions)) AS first (shard, saga_id, stream_version)
  -- A scalar sub-select is one look into the index for each stream, whatever the table's statistics say.
  WHERE (SELECT 1 FROM sagax.events e
    WHERE e.saga_id = first.saga_id AND e.stream_version = first.stream_version - 1) IS NULL
  GROUP BY first.shard;
END $$;
