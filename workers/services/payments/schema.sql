-- Payments: the service keeps no tables of its own. Its work is done at the gateway, and the worker's
-- inbox, which goes into this schema, remembers what became of each command.
CREATE SCHEMA IF NOT EXISTS payments;
