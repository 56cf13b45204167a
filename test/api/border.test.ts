/** What comes in at the border of the API: bad JSON, limits, unknown routes and parameters, broken connections. */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { beginning, openApi } from './support.ts';

const json = { 'content-type': 'application/json' };
const raw = (payload: string, headers: Record<string, string> = json) => ({
  method: 'POST' as const,
  url: '/v1/sagas',
  payload,
  headers,
});

describe('bodies', () => {
  const start = (input: string) => `{"definition":"visit","input":${input}}`;
  it.each([
    ['not JSON', '{"a":', json, 400, 'INPUT_INVALID'],
    ['empty', '', json, 422, 'INPUT_INVALID'],
    ['null', 'null', json, 422, 'INPUT_INVALID'],
    ['another type', '<a/>', { 'content-type': 'application/xml' }, 415, 'INPUT_INVALID'],
    ['text', 'x', { 'content-type': 'text/plain' }, 415, 'INPUT_INVALID'],
    ['too large', `"${'x'.repeat(1024 * 1024)}"`, json, 413, 'PAYLOAD_REFUSED'],
    ['too deep', '['.repeat(200_000) + ']'.repeat(200_000), json, 400, 'PAYLOAD_REFUSED'],
    ['__proto__', start('{"city":"x","__proto__":{"a":1}}'), json, 400, 'PAYLOAD_REFUSED'],
    [
      'constructor',
      start('{"city":"x","constructor":{"prototype":{}}}'),
      json,
      400,
      'PAYLOAD_REFUSED',
    ],
    ['prototype', start('{"city":"x","note":[{"prototype":1}]}'), json, 400, 'PAYLOAD_REFUSED'],
    ['NUL', start('{"city":"a\\u0000b"}'), json, 400, 'PAYLOAD_REFUSED'],
    ['half a surrogate pair', start('{"city":"\\ud800"}'), json, 400, 'PAYLOAD_REFUSED'],
    ['NUL in a key', start('{"city":"x","a\\u0000b":1}'), json, 400, 'PAYLOAD_REFUSED'],
    ['an overflow', start('{"city":"x","note":1e999}'), json, 400, 'PAYLOAD_REFUSED'],
  ])('%s is refused', async (_name, payload, headers, status, code) => {
    const { app, published } = await openApi();
    const response = await app.inject(raw(payload, headers));
    expect([response.statusCode, response.json().code]).toEqual([status, code]);
    expect(response.headers['content-type']).toBe('application/problem+json; charset=utf-8');
    expect(published).toEqual([]);
    expect(Object.prototype).not.toHaveProperty('a');
  });
});

describe('the rest of a request', () => {
  it('is refused by name', async () => {
    const { app } = await openApi();
    const cases: [string, number, string][] = [
      ['/v1/sagas/1?expand=all', 400, 'INPUT_INVALID'],
      ['/v1/sagas/1/result?wait=61', 400, 'INPUT_INVALID'],
      ['/v1/shards?x=1', 400, 'INPUT_INVALID'],
      ['/v1/namespaces/UPPER/sagas', 400, 'INPUT_INVALID'],
      ['/v1/sagas/%zz', 400, 'INPUT_INVALID'],
      [`/v1/definitions/${'x'.repeat(300)}`, 414, 'PAYLOAD_REFUSED'],
      ['/v2/sagas', 404, 'ROUTE_UNKNOWN'],
    ];
    for (const [url, status, code] of cases) {
      const response = await app.inject(url);
      expect([url, response.statusCode, response.json().code]).toEqual([url, status, code]);
    }
    const key = await app.inject({
      ...raw('{"definition":"visit","input":{"city":"x"}}'),
      headers: { ...json, 'idempotency-key': 'has a space' },
    });
    expect(key.json().issues).toEqual([
      { path: 'header.idempotency-key', message: '1 to 200 visible ASCII characters' },
    ]);
    expect((await app.inject({ method: 'DELETE', url: '/v1/sagas/1' })).statusCode).toBe(404);
  });

  it('has an id: the given one when a log can carry it, else a new one', async () => {
    const { app } = await openApi();
    const given = await app.inject({ url: '/nope', headers: { 'x-request-id': 'abc-1' } });
    expect([given.headers['x-request-id'], given.json().requestId]).toEqual(['abc-1', 'abc-1']);
    const bad = await app.inject({ url: '/nope', headers: { 'x-request-id': 'a b\t<script>' } });
    expect(bad.headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('what a saga is given', () => {
  const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 0);
  const nested = (levels: number): unknown => (levels === 0 ? 1 : [nested(levels - 1)]);
  // What is looked at begins one or two levels above the part that is nested.
  const CASES: [string, number, (part: unknown) => object][] = [
    ['/v1/sagas', 47, (note) => ({ definition: 'visit', input: { city: 'x', note } })],
    [`/v1/sagas/${SAGA}/signals/approve`, 47, (more) => ({ by: 'ann', more })],
    [
      `/v1/commands/${SAGA}.1/complete`,
      47,
      (more) => ({ outcome: 'succeeded', output: { seat: '4A', more } }),
    ],
    [
      `/v1/commands/${SAGA}.1/complete`,
      48,
      (data) => ({ outcome: 'failed', failure: { code: 'Broken', data } }),
    ],
  ];

  it.each(CASES)('by %s may be nested as deep as it can be wrapped', async (url, levels, make) => {
    const { app, log, inbox } = await openApi();
    log(SAGA, ...beginning(SAGA));
    const post = (payload: object) => app.inject({ method: 'POST', url, payload });
    expect((await post(make(nested(levels)))).statusCode).toBe(202);
    expect(inbox()).toHaveLength(1);
    const refused = await post(make(nested(levels + 1)));
    expect([refused.statusCode, refused.json().code]).toEqual([400, 'PAYLOAD_REFUSED']);
    expect(refused.json().detail).toMatch(/^body.* is nested deeper than 48 levels/);
    expect(inbox()).toHaveLength(1);
  });

  it('in a batch refuses only the item that is too deep', async () => {
    const { app } = await openApi();
    const item = (levels: number) => ({
      definition: 'visit',
      input: { city: 'x', note: nested(levels) },
    });
    const payload = { items: [item(48), item(47)] };
    const response = await app.inject({ method: 'POST', url: '/v1/sagas/batch', payload });
    expect(response.json()).toMatchObject({
      items: [{ status: 'refused', problem: { code: 'PAYLOAD_REFUSED' } }, { status: 'accepted' }],
    });
  });
});

describe('defects', () => {
  it('are INTERNAL: the message goes to the log with the request id, not to the caller', async () => {
    const lines: string[] = [];
    const { app } = await openApi({
      reader: { get: () => Promise.reject(new Error('password=hunter2')) },
      options: { logger: pino({ level: 'error' }, { write: (line) => lines.push(line) }) },
    });
    const response = await app.inject({ url: '/v1/sagas/1', headers: { 'x-request-id': 'r-9' } });
    expect([response.statusCode, response.json().code]).toEqual([500, 'INTERNAL']);
    expect(response.json().requestId).toBe('r-9');
    expect(response.body).not.toContain('hunter2');
    expect(lines.join('')).toMatch(/hunter2/);
    expect(lines.join('')).toMatch(/"requestId":"r-9"/);
  });
});

describe('connections', () => {
  /** What a raw connection gets back. */
  async function answerTo(text: string): Promise<string> {
    const { app } = await openApi();
    await app.listen({ host: '127.0.0.1', port: 0 });
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1');
    socket.write(text);
    let answer = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      answer += chunk;
    });
    await once(socket, 'close');
    await app.close();
    return answer;
  }

  it.each([
    [
      431,
      'PAYLOAD_REFUSED',
      `GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ${'a'.repeat(40_000)}\r\n\r\n`,
    ],
    [400, 'INPUT_INVALID', 'GET /healthz HTTP/1.1\r\nno colon\r\n\r\n'],
    [400, 'INPUT_INVALID', 'BREW /pot HTCPCP/1.0\r\n\r\n'],
  ])('that do not speak HTTP within its limits get %i as a problem', async (status, code, text) => {
    const answer = await answerTo(text);
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(answer).toContain('content-type: application/problem+json');
    const body = answer.slice(answer.indexOf('\r\n\r\n') + 4);
    expect(JSON.parse(body)).toMatchObject({ status, code });
  });

  it('have limits on time against clients that drip bytes', async () => {
    const { app } = await openApi();
    const { server } = app;
    expect(server.headersTimeout).toBe(10_000);
    expect(server.requestTimeout).toBe(30_000);
    // Silent, but under way: a long poll of 60 s must outlive it.
    expect(server.timeout).toBeGreaterThan(60_000);
  });
});
