-- breaking: false
--
-- Who may use the API, and who did what with it.
--
--   api_keys   keys of the API: only the SHA-256 of each secret. A secret has 256 random bits, so it can't be guessed
--              from its hash however fast the hash is; slow hashes are for passwords that people choose.
--   audit      one row for each act of a person or program that changes what runs or who may: written before the
--              act, its result put in after. status is null while the act is under way, and stays so when its
--              process died before it could tell.
--
-- Each statement touches one row by its key, so there is no lock order to keep. Nothing deletes from audit: how long
-- it is kept is for the operator to say (docs/SECURITY.md).

CREATE TABLE sagax.api_keys (
  id         text PRIMARY KEY,
  hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
  name       text NOT NULL,
  role       text NOT NULL CHECK (role IN ('reader', 'operator', 'admin')),
  -- null: every namespace.
  namespaces text[],
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  used_at    timestamptz
) WITH (fillfactor = 80);

CREATE TABLE sagax.audit (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         timestamptz NOT NULL DEFAULT clock_timestamp(),
  principal  text NOT NULL,
  role       text NOT NULL,
  action     text NOT NULL,
  -- null: of no namespace (keys, or a dead letter that can't be read).
  namespace  text,
  target     text,
  reason     text,
  request_id text NOT NULL,
  address    text,
  -- HTTP status and error code of the answer.
  status     int,
  code       text
);
CREATE INDEX audit_at ON sagax.audit (at);
CREATE INDEX audit_target ON sagax.audit (target, id);
