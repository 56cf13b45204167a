/** Migration over a connection that fails: what is tried again begins on a sound one. */
import { expect, test } from 'vitest';
import { migrate } from '../../engine/postgres/index.ts';
import { PgProxy } from '../support/pg-proxy.ts';
import { testDatabase } from '../support/postgres.ts';

test('a migration that lost a conflict and could not roll back is tried on another connection', async () => {
  const db = await testDatabase();
  const proxy = await PgProxy.start(db.url);
  const left = new Set(['SELECT pg_advisory_xact_lock($1)', 'ROLLBACK']);
  proxy.plan = ({ text }) =>
    left.delete(text) ? { kind: 'error', code: text === 'ROLLBACK' ? '57014' : '40001' } : null;
  try {
    expect(await migrate({ url: proxy.url })).toEqual([]);
    expect(left.size).toBe(0);
  } finally {
    await proxy.close();
    await db.drop();
  }
});
