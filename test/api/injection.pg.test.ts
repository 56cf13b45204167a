/**
 * Injection payloads in every place that a caller fills, on a real Postgres: no 5xx, no word of the database, no
 * prototype changed, no table touched, and what was accepted is kept as it was sent.
 *
 * INJECTIONS sets how many (default 300; 5,000 for a release).
 */
import { Registry } from 'prom-client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createApi } from '../../api/server.ts';
import { SnowflakeGenerator, composeSnowflake } from '../../engine/core/ids.ts';
import { openMemory, systemClock } from '../../engine/memory/index.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { INNER_WORDS, injections } from '../support/injections.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { visit } from './support.ts';

const COUNT = Number(process.env['INJECTIONS'] ?? 300);
/** Ten requests for a payload, a few milliseconds each; many times that on a busy machine. */
const LIMIT_MS = 60_000 + COUNT * 400;
const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 1);

let database: TestDatabase;
let postgres: PostgresPorts;
let app: ReturnType<typeof createApi>;
beforeAll(async () => {
  database = await testDatabase();
  postgres = await openPostgres({ url: database.url, shards: 4 });
  const { bus } = openMemory({ shards: 4, clock: systemClock });
  await bus.ensureTopics([{ topic: 'test.inbox', partitions: 4 }]);
  const ids = new SnowflakeGenerator({
    nodeId: 1,
    now: () => systemClock.now(),
    leaseHolds: () => true,
    startAboveMs: 0,
  });
  const { reader, startKeys, deadLetters, apiKeys, auditLog } = postgres;
  app = createApi(
    {
      ...{ bus, reader, startKeys, deadLetters, ids, clock: systemClock, definitions: [visit] },
      access: { required: false, apiKeys, auditLog },
      topology: { topicPrefix: 'test', shards: 4 },
      metrics: new Registry(),
    },
    { visibilityWaitMs: 1 },
  );
  await app.ready();
});
afterAll(async () => {
  await app.close();
  await postgres.close();
  await database.drop();
});

type Request = {
  method: 'GET' | 'POST';
  url: string;
  payload?: object;
  headers?: { [name: string]: string };
};

/** The payload in each place where a caller can put text. */
function requestsWith(text: string): Request[] {
  const path = encodeURIComponent(text.toWellFormed());
  const start = { definition: 'visit', input: { city: 'Rome', note: { [`k${text}`]: text } } };
  return [
    { method: 'GET', url: `/v1/sagas?definition=${path}&businessKey=${path}` },
    { method: 'GET', url: `/v1/sagas?attribute.x=${path}&status=${path}` },
    { method: 'GET', url: `/v1/sagas?attribute.${path}=1&cursor=${path}` },
    { method: 'GET', url: `/v1/sagas/${path}/history?after=${path}` },
    { method: 'GET', url: `/v1/namespaces/${path}/sagas/${SAGA}` },
    { method: 'GET', url: `/v1/definitions/${path}` },
    { method: 'GET', url: `/v1/dead-letters/${path}` },
    {
      method: 'POST',
      url: '/v1/sagas',
      payload: { ...start, businessKey: text, attributes: { x: text } },
    },
    {
      method: 'POST',
      url: '/v1/sagas',
      payload: start,
      headers: { 'idempotency-key': path.slice(0, 200) },
    },
    {
      method: 'POST',
      url: `/v1/sagas/${SAGA}/pause`,
      payload: { reason: text, by: text },
      headers: { 'x-request-id': path },
    },
    { method: 'POST', url: `/v1/sagas/${SAGA}/signals/${path}`, payload: { by: text } },
    {
      method: 'POST',
      url: '/v1/keys',
      payload: { name: text, role: text, namespaces: [text], expiresAt: text },
    },
  ];
}

describe('injections', { timeout: LIMIT_MS }, () => {
  test(`${COUNT} of them in every place do nothing`, async () => {
    const tables = async (): Promise<unknown> =>
      (
        await database.pool.query(
          `SELECT table_name FROM information_schema.tables WHERE table_schema = 'sagax' ORDER BY 1`,
        )
      ).rows;
    const before = await tables();
    const seen = { refused: 0, accepted: 0 };
    const payloads = injections(COUNT);
    for (const text of payloads) {
      const answers = await Promise.all(requestsWith(text).map((request) => app.inject(request)));
      for (const { statusCode, body } of answers) {
        expect(statusCode, `${text} -> ${body.slice(0, 300)}`).toBeLessThan(500);
        // Refusals repeat what was sent; their own words are what is looked at.
        expect(body.replaceAll(JSON.stringify(text).slice(1, -1), ''), text).not.toMatch(
          INNER_WORDS,
        );
        seen[statusCode < 400 ? 'accepted' : 'refused'] += 1;
      }
      expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    }
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect(await tables()).toEqual(before);
    expect(seen.accepted).toBeGreaterThan(COUNT);
    expect(seen.refused).toBeGreaterThan(COUNT);

    // What was accepted stands there as it was sent, as text.
    const kept = await database.pool.query<{ reason: string }>(
      'SELECT DISTINCT reason FROM sagax.audit',
    );
    const reasons = new Set(kept.rows.map(({ reason }) => reason));
    expect(payloads.filter((text) => !reasons.has(text))).toEqual([]);
  });
});
