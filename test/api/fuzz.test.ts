/** Random requests: whatever comes in, no answer is a 5xx. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { OutgoingHttpHeaders } from 'node:http';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { FORBIDDEN_KEYS } from '../../engine/core/json.ts';
import { decodeInbox } from '../../engine/core/wire.ts';
import { INNER_WORDS } from '../support/injections.ts';
import { beginning, openApi, type TestApi } from './support.ts';

/**
 * Whatever comes, the border answers with a status below 500, a refusal is a problem document with a code, and
 * nothing that it put into the inbox is refused by the shard's own check.
 */
const RUNNING = composeSnowflake(Date.UTC(2025, 5, 1), 1, 1);
const ENDED = composeSnowflake(Date.UTC(2025, 5, 1), 1, 2);
const RUNS = Number(process.env['FUZZ_RUNS'] ?? 1_500);
/** Requests that are right by their making; far fewer show what they are for. */
const RIGHT_RUNS = Math.ceil(RUNS / 5);
/** A request takes about a millisecond; many times that when all cores are busy with other tests. */
const LIMIT_MS = 10_000 + RUNS * 20;

async function seeded(): Promise<TestApi> {
  const api = await openApi({ options: { visibilityWaitMs: 1 } });
  api.log(RUNNING, ...beginning(RUNNING));
  api.log(ENDED, ...beginning(ENDED), { type: 'SagaCompleted', output: null });
  api.become({ sagaId: ENDED, status: 'completed', endedAt: 1 });
  return api;
}

async function probe(
  api: TestApi,
  request: {
    method: 'GET' | 'POST' | 'PUT' | 'DELETE';
    url: string;
    payload?: string;
    headers?: OutgoingHttpHeaders;
  },
) {
  const response = await api.app.inject(request);
  const { statusCode, headers, body } = response;
  const shown = `${request.method} ${request.url} ${request.payload ?? ''} -> ${body.slice(0, 300)}`;
  const type = String(headers['content-type']).split(';')[0];
  const code: unknown = statusCode < 400 ? 'none' : response.json().code;
  return {
    statusCode,
    isProblem: type === 'application/problem+json',
    hasCode: typeof code === 'string',
    shown,
    told: body,
  };
}

/** An answer of its own, or a problem with a code; never a failure of ours. */
function expectOrderly({
  statusCode,
  isProblem,
  hasCode,
  shown,
  told,
}: Awaited<ReturnType<typeof probe>>): void {
  expect(statusCode, shown).toBeLessThan(500);
  expect([isProblem, hasCode], shown).toEqual([statusCode >= 400, true]);
  // A prototype that a body could change would show on every object.
  expect(Object.keys(Object.prototype), shown).toEqual([]);
  expect(told, shown).not.toMatch(INNER_WORDS);
}

const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    '',
    '\0',
    '\ud800',
    '__proto__',
    'constructor',
    '../..',
    '%00',
    "' OR 1=1 --",
    '9'.repeat(30),
  ),
);
const id = fc.oneof(
  fc.constantFrom(
    RUNNING,
    ENDED,
    '1',
    '0',
    '-1',
    '9223372036854775807',
    '9223372036854775808',
    '1e9',
    '٣',
  ),
  text,
);
const segment = fc.oneof(
  id,
  id.map((value) => `${value}.1`),
  fc.constantFrom(
    'sagas',
    'batch',
    'commands',
    'definitions',
    'visit',
    'dead-letters',
    'shards',
    'namespaces',
    'history',
    'result',
    'signals',
    'approve',
    'cancel',
    'pause',
    'retry',
    'resolve',
    'complete',
    'versions',
    'default',
  ),
);
/** Percent-encoded where it can be; what can't be encoded is sent as it is. */
const encode = (value: string): string => {
  try {
    return encodeURIComponent(value);
  } catch {
    return encodeURI(value.toWellFormed());
  }
};
const query = fc.array(
  fc.tuple(
    fc.oneof(
      text,
      fc.constantFrom(
        'limit',
        'cursor',
        'wait',
        'after',
        'status',
        'definition',
        'attribute.x',
        'startedFrom',
        'format',
        'version',
      ),
    ),
    fc.oneof(
      text,
      fc.constantFrom(
        '1',
        '-1',
        'NaN',
        'Infinity',
        '1e400',
        '2026-01-01T00:00:00Z',
        'running',
        'mermaid',
      ),
    ),
  ),
  { maxLength: 4 },
);
const json = fc.jsonValue({ depthSize: 'small' });

/** A request that its route takes, and the type of the input that comes of it. */
interface RightRequest {
  path: string;
  body: object;
  type: string;
}
/** Any text that Postgres can keep; whole characters, so that no length limit is passed by a joined one. */
const keepable = (maxLength: number): fc.Arbitrary<string> =>
  fc
    .string({ unit: 'binary', minLength: 1, maxLength })
    .filter((value) => value.isWellFormed() && !value.includes('\0'));
const keepableJson = fc
  .jsonValue({ depthSize: 'small', stringUnit: 'grapheme' })
  .filter((value) => isRight(JSON.stringify(value)));
function isRight(text: string): boolean {
  const isForbidden = [...FORBIDDEN_KEYS].some((key) => text.includes(`${JSON.stringify(key)}:`));
  return !isForbidden && !text.includes('\\u0000');
}
const start = fc.record(
  {
    definition: fc.constant('visit'),
    version: fc.constantFrom(1, 2),
    input: fc.record(
      { city: keepable(40), cents: fc.integer({ min: 1 }), note: keepableJson },
      { requiredKeys: ['city'] },
    ),
    attributes: fc.dictionary(
      fc.stringMatching(/^[A-Za-z][A-Za-z0-9_-]{0,20}$/),
      fc.oneof(keepable(40), fc.double({ noNaN: true, noDefaultInfinity: true }), fc.boolean()),
      { maxKeys: 5 },
    ),
  },
  { requiredKeys: ['definition', 'input'] },
);
const said = { reason: keepable(100), by: keepable(40) };
const right = (
  path: string,
  type: string,
  body: fc.Arbitrary<object>,
): fc.Arbitrary<RightRequest> => body.map((value) => ({ path, type, body: value }));
const command = `commands/${RUNNING}.1`;
const rightRequest: fc.Arbitrary<RightRequest> = fc.oneof(
  right('sagas', 'start', start),
  right(
    'sagas/batch',
    'start',
    start.map((item) => ({ items: [item, { definition: 'unheard of' }] })),
  ),
  right(`sagas/${RUNNING}/signals/approve`, 'signal', fc.record({ by: keepable(40) })),
  right(`sagas/${RUNNING}/cancel`, 'cancel', fc.record(said, { requiredKeys: [] })),
  right(`sagas/${RUNNING}/pause`, 'operator', fc.record(said, { requiredKeys: [] })),
  right(`${command}/retry`, 'operator', fc.record(said, { requiredKeys: [] })),
  right(`${command}/skip`, 'operator', fc.record(said)),
  right(
    `${command}/resolve`,
    'operator',
    fc.record({ ...said, output: fc.record({ seat: keepable(40) }) }),
  ),
  right(
    `${command}/complete`,
    'reply',
    fc.oneof(
      fc.record({
        outcome: fc.constant('succeeded'),
        output: fc.record({ seat: keepable(40) }),
      }),
      fc.record({
        outcome: fc.constant('rejected'),
        failure: fc.record({
          code: fc.constant('SoldOut'),
          data: fc.record({ next: keepable(40) }),
        }),
      }),
      fc.record({
        outcome: fc.constant('failed'),
        failure: fc.record({ code: keepable(40), message: keepable(100), data: keepableJson }),
        retryable: fc.boolean(),
      }),
    ),
  ),
);
const RIGHT_EXAMPLES: RightRequest[] = [
  { path: 'sagas', type: 'start', body: { definition: 'visit', input: { city: 'Rome' } } },
  {
    path: 'sagas/batch',
    type: 'start',
    body: { items: [{ definition: 'visit', input: { city: 'Rome' } }] },
  },
  { path: `sagas/${RUNNING}/signals/approve`, type: 'signal', body: { by: 'bob' } },
  { path: `sagas/${RUNNING}/cancel`, type: 'cancel', body: {} },
  { path: `sagas/${RUNNING}/pause`, type: 'operator', body: {} },
  { path: `${command}/retry`, type: 'operator', body: {} },
  { path: `${command}/skip`, type: 'operator', body: { reason: 'done by hand', by: 'bob' } },
  { path: `${command}/resolve`, type: 'operator', body: { reason: 'r', output: { seat: '1A' } } },
  {
    path: `${command}/complete`,
    type: 'reply',
    body: { outcome: 'succeeded', output: { seat: '1A' } },
  },
];

describe('fuzz', { timeout: LIMIT_MS }, () => {
  it(`answers ${RUNS} random paths and queries below 500`, async () => {
    const api = await seeded();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('GET' as const, 'POST' as const, 'PUT' as const, 'DELETE' as const),
        fc.array(segment, { minLength: 1, maxLength: 5 }),
        query,
        async (method, segments, pairs) => {
          // A long poll that waits is no failure, but would make the run slow.
          const kept = pairs.filter(([name]) => name !== 'wait');
          const search = kept.map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&');
          const path = segments.map(encode).join('/');
          // The stream of a living saga would not end.
          if (path.endsWith('history/stream')) return;
          expectOrderly(await probe(api, { method, url: `/v1/${path}?${search}` }));
        },
      ),
      { numRuns: RUNS },
    );
    expect(api.answered.length).toBeGreaterThan(RUNS / 2);
  });

  it(`answers ${RUNS} random bodies on every route that takes one below 500`, async () => {
    const api = await seeded();
    const known = fc.record(
      {
        definition: fc.oneof(fc.constant('visit'), text, json),
        version: fc.oneof(fc.constantFrom(1, 2, 0, -1, 1.5, 1e300), json),
        input: fc.oneof(
          fc.record({ city: text, cents: fc.oneof(fc.integer(), fc.double()), note: json }),
          json,
        ),
        businessKey: fc.oneof(text, json),
        attributes: fc.oneof(
          fc.dictionary(text, fc.oneof(text, fc.double(), fc.boolean(), json)),
          json,
        ),
        idempotencyKey: fc.oneof(text, json),
        outcome: fc.oneof(fc.constantFrom('succeeded', 'rejected', 'failed', 'pending'), json),
        output: fc.oneof(fc.record({ seat: text }), json),
        failure: fc.oneof(
          fc.record({ code: fc.oneof(text, fc.constant('SoldOut')), message: text, data: json }),
          json,
        ),
        reason: fc.oneof(text, json),
        by: fc.oneof(text, json),
      },
      { requiredKeys: [] },
    );
    const some = fc.oneof(
      known,
      fc.record({ items: fc.oneof(fc.array(known, { maxLength: 5 }), json) }),
      json,
    );
    const body = fc.oneof(
      some.map((value) => JSON.stringify(value)),
      fc.string({ unit: 'binary' }),
    );
    const route = fc.constantFrom(
      'sagas',
      'sagas/batch',
      `sagas/${RUNNING}/signals/approve`,
      `sagas/${RUNNING}/cancel`,
      `sagas/${RUNNING}/pause`,
      `commands/${RUNNING}.1/retry`,
      `commands/${RUNNING}.1/skip`,
      `commands/${RUNNING}.1/resolve`,
      `commands/${RUNNING}.1/complete`,
      `commands/${RUNNING}.2/complete`,
      `sagas/${ENDED}/resume`,
      'dead-letters/1/redrive',
    );
    const header = fc.oneof(
      fc.constantFrom('k1', 'wait=0', 'wait=99999999', '00-00-00-00'),
      fc.string({ maxLength: 30 }),
    );
    const headers = fc.record(
      { 'idempotency-key': header, traceparent: header, 'x-request-id': header },
      { requiredKeys: [] },
    );
    await fc.assert(
      fc.asyncProperty(route, body, headers, async (path, payload, given) => {
        const type = { 'content-type': 'application/json' };
        const headers = { ...given, ...type };
        expectOrderly(await probe(api, { method: 'POST', url: `/v1/${path}`, payload, headers }));
      }),
      { numRuns: RUNS },
    );
    // What got through to the inbox, by chance, is readable there.
    expect(() => api.inbox()).not.toThrow();
  });

  it(`takes ${RIGHT_RUNS} random requests that are right, each with one readable input`, async () => {
    const api = await seeded();
    const seen = new Set<string>();
    await fc.assert(
      fc.asyncProperty(rightRequest, async ({ path, body, type }) => {
        const before = api.published.length;
        const answer = await probe(api, {
          method: 'POST',
          url: `/v1/${path}`,
          payload: JSON.stringify(body),
          headers: { 'content-type': 'application/json' },
        });
        expectOrderly(answer);
        expect(answer.statusCode, answer.shown).toBe(path.endsWith('batch') ? 200 : 202);
        const inputs = api.published.slice(before).map(decodeInbox);
        expect(
          inputs.map((input) => input.type),
          answer.shown,
        ).toEqual([type]);
        seen.add(path);
      }),
      // Each route comes at least once, whatever chance brings.
      { numRuns: RIGHT_RUNS, examples: RIGHT_EXAMPLES.map((example) => [example]) },
    );
    expect(seen).toEqual(new Set(RIGHT_EXAMPLES.map(({ path }) => path)));
  });
});
