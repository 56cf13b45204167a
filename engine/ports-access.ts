/**
 * Access ports: API keys at rest, and the audit trail.
 *
 * Guards that a secret is never stored: adapters see its hash only. Adapters: `postgres/access.ts`, and memory for tests.
 */

/** What a principal may do; each role may do all that the ones before it may. */
export const ROLES = ['reader', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export interface ApiKey {
  /** 12 hexadecimal digits; public, and names the key in logs and in `by`. */
  id: string;
  /** SHA-256 of the secret, 64 hexadecimal digits. */
  hash: string;
  /** What it is for, in words; up to 128 characters. */
  name: string;
  role: Role;
  /** Namespaces that it may use; null for all. */
  namespaces: readonly string[] | null;
  createdBy: string;
  /** ms since the epoch; null for never. */
  createdAt: number;
  expiresAt: number | null;
  revokedAt: number | null;
  /** The minute it was used last, about. */
  usedAt: number | null;
}

export type NewApiKey = Omit<ApiKey, 'createdAt' | 'revokedAt' | 'usedAt'>;

export interface ApiKeys {
  /** On return the key is durable. @throws SagaxError CommitUnknownError: list before making another */
  create(key: NewApiKey): Promise<void>;
  find(id: string): Promise<ApiKey | null>;
  /** Newest first, at most 1,000; with revoked and expired ones. */
  list(): Promise<ApiKey[]>;
  /** @returns false when there is no such key; revoking twice is no error and keeps the first time */
  revoke(id: string): Promise<boolean>;
  /** Notes that these were used now. Losing a note does no harm. */
  touch(ids: readonly string[]): Promise<void>;
}

export interface AuditEntry {
  /** `key:<id>`, `jwt:<subject>`, `local` or `cli:<user>`. */
  principal: string;
  role: Role;
  /** The operation, as the OpenAPI document names it. */
  action: string;
  namespace: string | null;
  /** What was acted on: id of a saga, a command, a dead letter or a key. */
  target: string | null;
  reason: string | null;
  requestId: string;
  address: string | null;
}

export interface AuditLog {
  /**
   * On return the entry is durable; call it before the act, so that no act is without one.
   * @returns names the entry for `finish`
   */
  begin(entry: AuditEntry): Promise<string>;
  /** Puts in how the act ended: HTTP status, and the error code when it was refused. */
  finish(id: string, result: { status: number; code: string | null }): Promise<void>;
}
