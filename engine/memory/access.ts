/** `ApiKeys` and `AuditLog` in memory, for tests of the border: what was stored can be looked at. */
import type { ApiKey, ApiKeys, AuditEntry, AuditLog } from '../ports-access.ts';
import type { Clock } from '../ports.ts';

export interface MemoryAccess {
  apiKeys: ApiKeys;
  auditLog: AuditLog;
  /** What is stored, by id. */
  keys: Map<string, ApiKey>;
  entries: (AuditEntry & { status: number | null; code: string | null })[];
}

export function memoryAccess(clock: Clock): MemoryAccess {
  const keys = new Map<string, ApiKey>();
  const entries: MemoryAccess['entries'] = [];
  const change = (id: string, with_: (key: ApiKey) => Partial<ApiKey>): boolean => {
    const key = keys.get(id);
    if (key !== undefined) keys.set(id, { ...key, ...with_(key) });
    return key !== undefined;
  };
  return {
    keys,
    entries,
    apiKeys: {
      create: async (key) => {
        keys.set(key.id, { ...key, createdAt: clock.now(), revokedAt: null, usedAt: null });
      },
      find: async (id) => keys.get(id) ?? null,
      list: async () => [...keys.values()].reverse(),
      revoke: async (id) =>
        change(id, ({ revokedAt }) => ({ revokedAt: revokedAt ?? clock.now() })),
      touch: async (ids) => {
        for (const id of ids) change(id, () => ({ usedAt: clock.now() }));
      },
    },
    auditLog: {
      begin: async (entry) => String(entries.push({ ...entry, status: null, code: null })),
      finish: async (id, result) => {
        const entry = entries[Number(id) - 1];
        if (entry !== undefined) Object.assign(entry, result);
      },
    },
  };
}
