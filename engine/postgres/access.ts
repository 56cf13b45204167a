/**
 * `ApiKeys` and `AuditLog` on Postgres: two small tables, a row at a time.
 *
 * Guards that what was promised lasts: a key that was revoked stays so, an entry that was begun is there. Only the hash
 * of a secret comes here.
 */
import type { ApiKey, ApiKeys, AuditLog, Role } from '../ports-access.ts';
import type { Database } from './pool.ts';

const MAX_KEYS_LISTED = 1_000;
const ms = (column: string): string =>
  `(extract(epoch FROM ${column}) * 1000)::bigint AS ${column}`;
const COLUMNS = `id, encode(hash, 'hex') AS hash, name, role, namespaces, created_by, ${ms('created_at')},
  ${ms('expires_at')}, ${ms('revoked_at')}, ${ms('used_at')}`;

interface Row {
  id: string;
  hash: string;
  name: string;
  role: Role;
  namespaces: string[] | null;
  created_by: string;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  used_at: string | null;
}

export function postgresApiKeys(db: Database): ApiKeys {
  return {
    create: async (key) => {
      await db.write({
        text: `INSERT INTO sagax.api_keys (id, hash, name, role, namespaces, created_by, expires_at)
          VALUES ($1, decode($2, 'hex'), $3, $4, $5, $6, to_timestamp($7::float8 / 1000))`,
        values: [
          key.id,
          key.hash,
          key.name,
          key.role,
          key.namespaces,
          key.createdBy,
          key.expiresAt,
        ],
      });
    },
    find: async (id) => {
      const [row] = await db.read<Row>({
        text: `SELECT ${COLUMNS} FROM sagax.api_keys WHERE id = $1`,
        values: [id],
      });
      return row === undefined ? null : toKey(row);
    },
    list: async () => {
      const rows = await db.read<Row>({
        text: `SELECT ${COLUMNS} FROM sagax.api_keys ORDER BY api_keys.created_at DESC, id LIMIT $1`,
        values: [MAX_KEYS_LISTED],
      });
      return rows.map(toKey);
    },
    revoke: async (id) => {
      const rows = await db.read({
        text: `UPDATE sagax.api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1 RETURNING id`,
        values: [id],
      });
      return rows.length === 1;
    },
    touch: async (ids) => {
      // In order of ids, so that two processes that note the same keys don't wait for each other in a ring.
      await db.read({
        text: `UPDATE sagax.api_keys SET used_at = clock_timestamp() WHERE id IN (
          SELECT id FROM sagax.api_keys WHERE id = ANY ($1::text[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)`,
        values: [ids],
      });
    },
  };
}

export function postgresAuditLog(db: Database): AuditLog {
  return {
    begin: async (entry) => {
      const { rows } = await db.write<{ id: string }>({
        text: `INSERT INTO sagax.audit (principal, role, action, namespace, target, reason, request_id, address)
          VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id`,
        values: [
          entry.principal,
          entry.role,
          entry.action,
          entry.namespace,
          entry.target,
          entry.reason,
          entry.requestId,
          entry.address,
        ],
      });
      return rows[0]?.id ?? '';
    },
    finish: async (id, { status, code }) => {
      await db.read({
        text: 'UPDATE sagax.audit SET status = $2, code = $3 WHERE id = $1',
        values: [id, status, code],
      });
    },
  };
}

function toKey(row: Row): ApiKey {
  const time = (text: string | null): number | null => (text === null ? null : Number(text));
  return {
    id: row.id,
    hash: row.hash,
    name: row.name,
    role: row.role,
    namespaces: row.namespaces,
    createdBy: row.created_by,
    createdAt: Number(row.created_at),
    expiresAt: time(row.expires_at),
    revokedAt: time(row.revoked_at),
    usedAt: time(row.used_at),
  };
}
