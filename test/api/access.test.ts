/**
 * Who gets in: every route × {no credentials, unknown, revoked, expired, a lower role, another namespace}.
 *
 * The routes are those that fastify tells of, so a new one is in here by itself, and fails until it is right.
 */
import { Registry } from 'prom-client';
import { beforeAll, describe, expect, it } from 'vitest';
import { makeKey } from '../../api/access/keys.ts';
import { createApi } from '../../api/server.ts';
import { memoryAccess, openMemory, systemClock } from '../../engine/memory/index.ts';
import { ROLES, type Role } from '../../engine/ports-access.ts';
import { openSecureApi, requestFor, SAGA, type SecureApi } from './access-support.ts';
import { openApi, type TestRoute } from './support.ts';

const { routes } = await openApi();
const guarded = routes.filter(({ access }) => access !== 'public');
const named = (list: readonly TestRoute[]): [string, TestRoute][] =>
  list.map((route) => [`${route.method} ${route.url}`, route]);

let api: SecureApi;
const keys = new Map<Role, string>();
let expired: string;
let revoked: string;
let blue: string;
beforeAll(async () => {
  api = await openSecureApi();
  for (const role of ROLES) keys.set(role, await api.key(role));
  expired = await api.key('admin', null, Date.now() - 1);
  revoked = await api.key('admin');
  await api.access.apiKeys.revoke(revoked.slice(4, 16));
  blue = await api.key('admin', ['blue']);
});
const ask = async (route: TestRoute, key: string | null) => {
  const before = api.published.length;
  const { method, url, payload } = requestFor(route);
  const answer = await api.ask(key, method, url, payload);
  return { ...answer, published: api.published.length - before };
};

describe('routes', () => {
  it('are many, and the open ones are these', () => {
    expect(guarded.length).toBeGreaterThan(45);
    const open = routes.filter(({ access }) => access === 'public').map(({ url }) => url);
    expect(open).toEqual(['/healthz', '/readyz']);
  });

  it('are all for a role that there is; those that change something for operators and up', () => {
    for (const { method, url, access } of guarded) {
      expect(method === 'GET' ? ROLES : ['operator', 'admin'], url).toContain(access);
    }
  });

  it('can not be registered without saying whom they are for', async () => {
    const app = unreadyApi();
    void app.register(async (plugin) => {
      plugin.get('/forgotten', () => 'open to all');
    });
    await expect(app.ready()).rejects.toThrow(/GET \/forgotten says not whom it is for/);
  });

  it('that are acts of a person are audited, and no others', () => {
    const acts = routes.filter(({ audited }) => audited).map(({ url }) => url);
    const writes = guarded.filter(({ method }) => method !== 'GET').map(({ url }) => url);
    expect(writes.filter((url) => !acts.includes(url))).toEqual([
      '/v1/sagas',
      '/v1/sagas/batch',
      '/v1/namespaces/:namespace/sagas',
      '/v1/namespaces/:namespace/sagas/batch',
    ]);
  });
});

describe('without credentials', () => {
  it.each(named(guarded))('%s is refused', async (_name, route) => {
    const answer = await ask(route, null);
    expect(answer).toMatchObject({ status: 401, code: 'UNAUTHENTICATED', published: 0 });
    expect(answer.headers['www-authenticate']).toBe('Bearer realm="sagax"');
  });
  it('what is no route is refused too', async () => {
    expect(await api.ask(null, 'GET', '/admin')).toMatchObject({ status: 401 });
    expect(await api.ask(keys.get('reader') ?? '', 'GET', '/admin')).toMatchObject({
      status: 404,
      code: 'ROUTE_UNKNOWN',
    });
  });
  it('health and readiness answer', async () => {
    expect(await api.ask(null, 'GET', '/healthz')).toMatchObject({ status: 200 });
    expect(await api.ask(null, 'GET', '/readyz')).toMatchObject({ status: 200 });
  });
});

describe('with a key that is no good', () => {
  it.each(named(guarded))('%s is refused', async (_name, route) => {
    // Each from an API of its own: many failures from one address would be refused for their number.
    const fresh = await openSecureApi();
    fresh.access.keys.clear();
    for (const [id, key] of api.access.keys) fresh.access.keys.set(id, key);
    const { method, url, payload } = requestFor(route);
    const wrong = `${expired.slice(0, -3)}abc`;
    for (const [key, reason] of [
      [makeKey().key, 'unknown'],
      [wrong, 'unknown'],
      [expired, 'expired'],
      [revoked, 'revoked'],
      ['sgx_nonsense', 'unknown'],
      ['eyJhbGciOiJub25lIn0.e30.', 'unknown'],
    ] as const) {
      const answer = await fresh.ask(key, method, url, payload);
      expect(answer, key).toMatchObject({ status: 401, code: 'UNAUTHENTICATED', body: { reason } });
      expect(JSON.stringify(answer.body)).not.toContain(key);
    }
    expect(fresh.published).toEqual([]);
  });

  it.each(['Basic c2d4', 'Bearer', 'Bearer a b', 'bearer', ''])('"%s" is none', async (given) => {
    const { statusCode } = await api.app.inject({ url: '/', headers: { authorization: given } });
    expect(statusCode).toBe(401);
  });
});

describe('with a role', () => {
  const needed = (route: TestRoute): number => ROLES.indexOf(route.access as Role);
  it.each(named(guarded.filter((route) => needed(route) > 0)))(
    '%s is refused to those below',
    async (_name, route) => {
      for (const role of ROLES.slice(0, needed(route))) {
        const answer = await ask(route, keys.get(role) ?? '');
        expect(answer, role).toMatchObject({ status: 403, code: 'FORBIDDEN', published: 0 });
        expect(answer.body['detail']).toBe(
          `This needs the role ${route.access}; yours is ${role}.`,
        );
      }
    },
  );
  // The stream of a living saga would not end.
  const ending = guarded.filter(({ url }) => !url.endsWith('/stream'));
  it.each(named(ending))('%s is open to the role and those above', async (_name, route) => {
    for (const role of ROLES.slice(needed(route))) {
      const { status } = await ask(route, keys.get(role) ?? '');
      expect([401, 403], role).not.toContain(status);
      expect(status, role).toBeLessThan(500);
    }
  });
});

/** What an admin of `blue` alone is told on each route; what is of no namespace and for all is left out. */
function expectedInBlue({ url, allNamespaces }: TestRoute): [number, string | undefined] {
  if (allNamespaces || url.includes(':namespace')) return [403, 'FORBIDDEN'];
  if (url.includes(':sagaId') || url.includes(':commandId')) return [404, 'SAGA_UNKNOWN'];
  if (url.startsWith('/v1/sagas')) return [403, 'FORBIDDEN'];
  if (url.startsWith('/v1/dead-letters/')) return [404, 'DEAD_LETTER_UNKNOWN'];
  return [200, undefined];
}

describe('with a key for another namespace', () => {
  it.each(named(guarded))('%s shows and changes nothing of this one', async (_name, route) => {
    const { status, code, published } = await ask(route, blue);
    expect([status, code, published]).toEqual([...expectedInBlue(route), 0]);
  });

  it('a saga of another namespace and one that is not there are told in the same words', async () => {
    const detail = async (sagaId: string): Promise<unknown> =>
      (await api.ask(blue, 'GET', `/v1/sagas/${sagaId}`)).body['detail'];
    const none = String(BigInt(SAGA) + 1n);
    expect(await detail(SAGA)).toBe(String(await detail(none)).replace(none, SAGA));
  });

  it('its own namespace is open', async () => {
    const body = { definition: 'visit', input: { city: 'Rome' } };
    const started = await api.ask(blue, 'POST', '/v1/namespaces/blue/sagas', body);
    expect(started).toMatchObject({ status: 202, body: { namespace: 'blue' } });
    expect(await api.ask(blue, 'GET', '/v1/namespaces/blue/sagas')).toMatchObject({ status: 200 });
  });

  it('namespaces that are not served are told as any other, so that none can be searched for', async () => {
    const few = await openSecureApi({ namespaces: ['green'] });
    const key = await few.key('admin', ['blue']);
    for (const name of ['green', 'nowhere']) {
      expect(await few.ask(key, 'GET', `/v1/namespaces/${name}/sagas`)).toMatchObject({
        status: 403,
      });
    }
  });
});

/** Not ready yet: routes can still be added. */
function unreadyApi() {
  const memory = openMemory({ shards: 1, clock: systemClock });
  return createApi({
    ...memory,
    access: { required: true, ...memoryAccess(systemClock) },
    ids: { next: () => '1' },
    clock: systemClock,
    definitions: [],
    topology: { topicPrefix: 'test', shards: 1 },
    metrics: new Registry(),
  });
}
