-- breaking: false
--
-- Where a member of a consumer group can be told that messages have been committed for it: `host port key`, for a
-- datagram with the key. Null where it can't be; it looks for messages anyhow, sooner or later.
--
-- Lock order: none; a column without a default is added without a rewrite.

ALTER TABLE sagax.bus_members ADD COLUMN bell text;
