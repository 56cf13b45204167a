/** API keys and the audit trail on Postgres: what was promised lasts, and a secret is not there. */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let postgres: PostgresPorts;
beforeAll(async () => {
  database = await testDatabase();
  postgres = await openPostgres({ url: database.url });
});
afterAll(async () => {
  await postgres.close();
  await database.drop();
});

const key = (id: string) => ({
  id,
  hash: createHash('sha256').update(id).digest('hex'),
  name: `the key "${id}"`,
  role: 'operator' as const,
  namespaces: ['blue', 'green'],
  createdBy: 'cli:ann',
  expiresAt: 2_000_000_000_123,
});

describe('API keys', () => {
  test('come back as they were stored, in all namespaces or in some, ending or not', async () => {
    const { apiKeys, clock } = postgres;
    const before = clock.now();
    await apiKeys.create(key('a00000000001'));
    await apiKeys.create({ ...key('a00000000002'), namespaces: null, expiresAt: null });
    const found = await apiKeys.find('a00000000001');
    expect(found).toMatchObject({ ...key('a00000000001'), revokedAt: null, usedAt: null });
    expect(found?.createdAt).toBeGreaterThan(before - 5_000);
    expect(await apiKeys.find('a00000000002')).toMatchObject({ namespaces: null, expiresAt: null });
    expect(await apiKeys.find("' OR true --")).toBeNull();
    expect((await apiKeys.list()).map(({ id }) => id)).toEqual(['a00000000002', 'a00000000001']);
  });

  test('are revoked once and for ever; one that is not there is told', async () => {
    const { apiKeys } = postgres;
    await apiKeys.create(key('b00000000001'));
    expect(await apiKeys.revoke('b00000000001')).toBe(true);
    const first = (await apiKeys.find('b00000000001'))?.revokedAt;
    expect(first).toEqual(expect.any(Number));
    expect(await apiKeys.revoke('b00000000001')).toBe(true);
    expect((await apiKeys.find('b00000000001'))?.revokedAt).toBe(first);
    expect(await apiKeys.revoke('b00000000009')).toBe(false);
  });

  test('are noted as used, side by side, and only those that are named', async () => {
    const { apiKeys } = postgres;
    const ids = ['c00000000001', 'c00000000002', 'c00000000003'];
    for (const id of ids) await apiKeys.create(key(id));
    const [first = '', second = '', third = ''] = ids;
    await Promise.all([apiKeys.touch([first, second]), apiKeys.touch([second, first])]);
    expect((await apiKeys.find(first))?.usedAt).toEqual(expect.any(Number));
    expect((await apiKeys.find(second))?.usedAt).toEqual(expect.any(Number));
    expect((await apiKeys.find(third))?.usedAt).toBeNull();
  });

  test('with an id that is taken, or a hash that is none, are refused', async () => {
    const { apiKeys } = postgres;
    await apiKeys.create(key('d00000000001'));
    await expect(apiKeys.create(key('d00000000001'))).rejects.toThrow(/api_keys/);
    await expect(apiKeys.create({ ...key('d00000000002'), hash: 'abcd' })).rejects.toThrow(
      /api_keys/,
    );
    expect(await apiKeys.find('d00000000002')).toBeNull();
  });
});

test('an audit entry is there before the act, and gets its result after', async () => {
  const { auditLog } = postgres;
  const entry = {
    principal: 'key:a00000000001',
    role: 'operator' as const,
    action: 'pauseSaga',
    namespace: 'blue',
    target: '42',
    reason: "Robert'); DROP TABLE sagax.audit;--",
    requestId: 'r-1',
    address: '127.0.0.1',
  };
  const id = await auditLog.begin(entry);
  const stored = async (): Promise<unknown> =>
    (await database.pool.query('SELECT * FROM sagax.audit WHERE id = $1', [id])).rows[0];
  expect(await stored()).toMatchObject({ action: 'pauseSaga', reason: entry.reason, status: null });
  await auditLog.finish(id, { status: 409, code: 'SAGA_ENDED' });
  expect(await stored()).toMatchObject({ target: '42', status: 409, code: 'SAGA_ENDED' });
});
