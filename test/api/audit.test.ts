/** Who did what: the principal in the saga's inbox, the audit trail before the act, a log line; keys over REST. */
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { openSecureApi, requestFor, SAGA } from './access-support.ts';
import { openApi } from './support.ts';

const { routes } = await openApi();
const acts = routes.filter(({ audited, url }) => audited && !url.includes(':namespace'));

describe('an act', () => {
  it.each(acts.map((route) => [`${route.method} ${route.url}`, route] as const))(
    '%s leaves an entry with who, what, and how it ended, and a log line',
    async (_name, route) => {
      const lines: string[] = [];
      const logger = pino({ level: 'info' }, { write: (line) => lines.push(line) });
      const api = await openSecureApi({ options: { logger } });
      const key = await api.key('admin');
      const { method, url, payload } = requestFor(route);
      const answer = await api.ask(key, method, url, payload, { 'x-request-id': 'r-1' });
      const principal = `key:${key.slice(4, 16)}`;
      const [entry] = api.access.entries;
      expect(entry).toMatchObject({
        ...{ principal, role: 'admin', requestId: 'r-1', address: '127.0.0.1' },
        status: answer.status,
        code: answer.code ?? null,
      });
      expect(entry?.action).toMatch(/^[a-z]+[A-Z][A-Za-z:]+$/);
      const told = lines
        .map((line) => JSON.parse(line) as { audit?: object })
        .filter((line) => line.audit);
      expect(told).toEqual([expect.objectContaining({ audit: entry })]);
    },
  );

  it('is entered before it is done, and is not done when it can not be entered', async () => {
    let before = -1;
    const api = await openSecureApi();
    const { begin } = api.access.auditLog;
    const auditLog = {
      ...api.access.auditLog,
      begin: (entry: Parameters<typeof begin>[0]) => {
        before = watched.published.length;
        return begin(entry);
      },
    };
    const watched = await openSecureApi({ access: { auditLog, apiKeys: api.access.apiKeys } });
    const key = await api.key('operator');
    expect((await watched.ask(key, 'POST', `/v1/sagas/${SAGA}/pause`)).status).toBe(202);
    expect([before, watched.published.length]).toEqual([0, 1]);

    auditLog.begin = () => Promise.reject(new SagaxError('DATABASE_UNAVAILABLE', 'away'));
    const refused = await watched.ask(key, 'POST', `/v1/sagas/${SAGA}/pause`);
    expect(refused).toMatchObject({ status: 503, code: 'DATABASE_UNAVAILABLE' });
    expect(watched.published).toHaveLength(1);
  });

  it('names the principal in the log of the saga; whom it claims to act for comes behind', async () => {
    const api = await openSecureApi();
    const key = await api.key('operator');
    const name = `key:${key.slice(4, 16)}`;
    await api.ask(key, 'POST', `/v1/sagas/${SAGA}/pause`, { reason: 'stop' });
    await api.ask(key, 'POST', `/v1/sagas/${SAGA}/cancel`, { by: 'key:000000000000' });
    await api.ask(key, 'POST', `/v1/commands/${SAGA}.1/skip`, { reason: 'r', by: 'x'.repeat(256) });
    expect(api.inbox()).toMatchObject([
      { body: { by: name, reason: 'stop' } },
      { body: { by: `${name} for key:000000000000` } },
      { body: { by: expect.stringMatching(new RegExp(`^${name} for x{200,}$`)) } },
    ]);
  });

  it('that is refused for its role is told in the log and changes nothing', async () => {
    const lines: string[] = [];
    const logger = pino({ level: 'info' }, { write: (line) => lines.push(line) });
    const api = await openSecureApi({ options: { logger } });
    const key = await api.key('reader');
    expect((await api.ask(key, 'POST', `/v1/sagas/${SAGA}/pause`)).status).toBe(403);
    expect(api.access.entries).toEqual([]);
    const told = lines.map((line) => JSON.parse(line) as { audit?: object });
    expect(told.filter(({ audit }) => audit)).toMatchObject([
      { audit: { action: 'pauseSaga', principal: `key:${key.slice(4, 16)}`, code: 'FORBIDDEN' } },
    ]);
  });

  it('of nobody in particular is entered as local, where no credentials are asked for', async () => {
    const api = await openApi();
    await api.app.inject({ method: 'POST', url: `/v1/sagas/${SAGA}/pause` });
    expect(api.access.entries).toMatchObject([{ principal: 'local', status: 404 }]);
  });
});

describe('keys over REST', () => {
  it('are made, used, listed without their secret, and revoked', async () => {
    const api = await openSecureApi();
    const admin = await api.key('admin');
    const wanted = {
      name: 'the shop',
      role: 'operator',
      namespaces: ['blue'],
      expiresAt: '2999-01-01T00:00:00.000Z',
    };
    const made = await api.ask(admin, 'POST', '/v1/keys', wanted);
    expect(made).toMatchObject({ status: 201, headers: { 'cache-control': 'no-store' } });
    const { id, key } = made.body as { id: string; key: string };
    const used = await api.ask(key, 'GET', '/v1/namespaces/blue/sagas');
    expect(used.status).toBe(200);
    const list = await api.ask(admin, 'GET', '/v1/keys');
    const createdBy = `key:${admin.slice(4, 16)}`;
    expect((list.body as { items: object[] }).items).toContainEqual(
      expect.objectContaining({ ...wanted, id, createdBy, revokedAt: null }),
    );
    expect(JSON.stringify(list.body)).not.toContain(key.slice(17));
    expect(JSON.stringify([...api.access.keys.values()])).not.toContain(key.slice(17));
    const revoked = await api.ask(admin, 'POST', `/v1/keys/${id}/revoke`);
    expect(revoked).toMatchObject({ status: 200, body: { id, revokedAt: expect.any(String) } });
    const fresh = await openSecureApi({ access: { apiKeys: api.access.apiKeys } });
    expect((await fresh.ask(key, 'GET', '/v1/namespaces/blue/sagas')).status).toBe(401);
    const none = await api.ask(admin, 'POST', '/v1/keys/ffffffffffff/revoke');
    expect(none).toMatchObject({ status: 404, code: 'KEY_UNKNOWN' });
  });

  it.each([
    { role: 'root' },
    { namespaces: [] },
    { namespaces: ['UPPER'] },
    { expiresAt: '2001-01-01T00:00:00Z' },
    { expiresAt: undefined },
    { name: '' },
    { more: 1 },
  ])('are not made with %j', async (over) => {
    const api = await openSecureApi();
    const right = { name: 'a', role: 'reader', namespaces: null, expiresAt: null };
    const answer = await api.ask(await api.key('admin'), 'POST', '/v1/keys', { ...right, ...over });
    expect(answer).toMatchObject({ status: 422, code: 'INPUT_INVALID' });
    expect(api.access.keys.size).toBe(1);
  });
});

describe('dead letters', () => {
  it('are shown to those who have the namespace that they name; the unreadable to those who have all', async () => {
    const api = await openSecureApi();
    const letters = api.memory.db.deadLetters;
    const add = (value: string | null): void => {
      const at = { topic: 'test.inbox', partition: 0, offset: 1n, at: 1, key: '1', headers: {} };
      const id = String(letters.length + 1);
      letters.push({ ...at, id, value, code: 'MESSAGE_INVALID', reason: '', redrivenAt: null });
    };
    for (let n = 0; n < 3; n++) {
      add('{"namespace":"blue"}');
      add('{"namespace":"green"}');
      add('{"namespace":{"toString":"blue"}}');
      add('["blue"]');
      add('not JSON');
      add(null);
    }
    const blue = await api.key('admin', ['blue']);
    const all = await api.key('reader');
    const ids = async (key: string, query = '') => {
      const { body } = await api.ask(key, 'GET', `/v1/dead-letters${query}`);
      return [(body['items'] as { id: string }[]).map(({ id }) => id), body['next']] as const;
    };
    expect(await ids(blue)).toEqual([['13', '7', '1'], null]);
    expect((await ids(all))[0]).toHaveLength(18);
    const [first, next] = await ids(blue, '?limit=2');
    expect(first).toEqual(['13', '7']);
    expect(await ids(blue, `?limit=2&cursor=${String(next)}`)).toEqual([['1'], null]);
    expect(await api.ask(blue, 'GET', '/v1/dead-letters/2')).toMatchObject({ status: 404 });
    expect(await api.ask(blue, 'POST', '/v1/dead-letters/2/redrive')).toMatchObject({
      status: 404,
    });
    expect(await api.ask(blue, 'POST', '/v1/dead-letters/1/redrive')).toMatchObject({
      status: 202,
    });
  });
});

describe('without authentication', () => {
  const ask = async (headers: { [name: string]: string }, url = '/v1/sagas') =>
    (await (await openApi()).app.inject({ url, headers })).statusCode;

  it.each([
    'localhost',
    'localhost:8080',
    '127.0.0.1:8080',
    '127.9.9.9',
    '[::1]:8080',
    'LOCALHOST',
  ])('host %s is this machine', async (host) => {
    expect(await ask({ host })).toBe(200);
    expect(await ask({ host, origin: `http://${host}`, 'sec-fetch-site': 'same-origin' })).toBe(
      200,
    );
  });

  it.each([
    'evil.example.com',
    'localhost.evil.example.com',
    '127.0.0.1.evil.example.com:80',
    '10.0.0.1',
    '0.0.0.0',
    'localhost@evil',
  ])('host "%s" is not (DNS rebinding)', async (host) => {
    expect(await ask({ host })).toBe(403);
  });

  it.each<{ [name: string]: string }>([
    { origin: 'https://evil.example.com' },
    { origin: 'null' },
    { origin: 'http://localhost:3000' },
    { origin: 'http://127.0.0.1:8080' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
  ])('a web page elsewhere can change nothing: %j', async (headers) => {
    const api = await openApi();
    const response = await api.app.inject({
      method: 'POST',
      url: '/v1/sagas',
      headers: { host: 'localhost:8080', ...headers },
      payload: { definition: 'visit', input: { city: 'Rome' } },
    });
    expect([response.statusCode, response.json().code]).toEqual([403, 'FORBIDDEN']);
    expect(api.published).toEqual([]);
  });
});
