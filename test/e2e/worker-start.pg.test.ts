/** A worker process whose database fails while it sets up: it waits out a conflict, and ends by saying what is away. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FAILURES } from '../chaos/wire/coverage.ts';
import { PgProxy, type Fault } from '../support/pg-proxy.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { startProcess } from './processes.ts';

/** Begin the statements of the examples' tables, and of the inbox. */
const SET_UPS = [/pg_advisory_xact_lock\(7267203/, /pg_advisory_xact_lock\(hashtextextended/];

describe.each(SET_UPS)('a worker that meets a failure at %s', (statement) => {
  let database: TestDatabase;
  let proxy: PgProxy;
  beforeAll(async () => {
    database = await testDatabase();
    proxy = await PgProxy.start(database.url);
  });
  afterAll(async () => {
    await proxy?.close();
    await database?.drop();
  });

  const start = (fault: Fault | undefined, times: number): ReturnType<typeof startProcess> => {
    let left = times;
    proxy.plan = ({ text }) => (statement.test(text) && left-- > 0 ? (fault ?? null) : null);
    return startProcess('worker', {
      DATABASE_URL: proxy.url,
      SAGAX_SERVICES: 'inventory',
    });
  };

  test.each(['57P01', '57014', 'cut'])(
    '%s: it ends as "out of reach", and says so',
    async (name) => {
      const worker = start(FAILURES[name], Infinity);
      expect(await worker.ended, worker.said()).toBe(69);
      expect(worker.said()).toMatch(/Postgres (does not answer|refused for now)/);
      expect(worker.said()).not.toMatch(/^\s+at /m);
    },
  );

  test('40001 once: it tries again and works', async () => {
    const worker = start(FAILURES['40001'], 1);
    await worker.line(/the workers run/);
    worker.kill('SIGTERM');
    expect(await worker.ended, worker.said()).toBe(0);
  });
});
