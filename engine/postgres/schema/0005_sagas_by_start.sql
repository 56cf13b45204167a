-- breaking: false
--
-- Lists by start time: a partition that has none of the time asked for is told so by its index, not by reading it.
--
-- A start may wait in the inbox for weeks, so a saga's id, which is older than its start, leaves a month of partitions
-- to look into. BRIN costs next to nothing: rows lie in order of their start, and updates of a row stay HOT.
--
-- Lock order: the table sagas and its partitions, SHARE, while the index is built: writes wait for it (a few seconds
-- for millions of sagas).

CREATE INDEX sagas_by_start ON sagax.sagas USING brin (started_at_ms) WITH (pages_per_range = 16, autosummarize = on);
