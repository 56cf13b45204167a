/** An API that asks for credentials, with keys of every kind, for tests of who gets in. */
import { makeKey } from '../../api/access/keys.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import type { Role } from '../../engine/ports-access.ts';
import { beginning, openApi, type Overrides, type TestApi, type TestRoute } from './support.ts';

/** A saga of the namespace `default`, old enough that nobody waits for it. */
export const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 1);
export const LETTER_ID = '1';

export interface SecureApi extends TestApi {
  /** A new key. @param namespaces null for all */
  key(
    role: Role,
    namespaces?: readonly string[] | null,
    expiresAt?: number | null,
  ): Promise<string>;
  /** Status and code of an answer to a request with this key; without one, with none. */
  ask(
    key: string | null,
    method: 'GET' | 'POST',
    url: string,
    payload?: object,
    headers?: { [name: string]: string },
  ): Promise<{ status: number; code: string | undefined; body: Answer; headers: Headers }>;
}
type Answer = { [member: string]: unknown };
type Headers = { [name: string]: unknown };

export async function openSecureApi(overrides: Overrides = {}): Promise<SecureApi> {
  const api = await openApi({ ...overrides, access: { required: true, ...overrides.access } });
  api.log(SAGA, ...beginning(SAGA));
  return {
    ...api,
    key: async (role, namespaces = null, expiresAt = null) => {
      const { id, key, hash } = makeKey();
      const stored = { id, hash, role, namespaces, expiresAt, name: 'a test', createdBy: 'test' };
      await api.access.apiKeys.create(stored);
      return key;
    },
    ask: async (key, method, url, payload, headers = {}) => {
      const response = await api.app.inject({
        method,
        url,
        headers: { ...(key !== null && { authorization: `Bearer ${key}` }), ...headers },
        ...(payload !== undefined && { payload }),
      });
      const isJson = String(response.headers['content-type']).includes('json');
      const body = isJson ? response.json<Answer>() : {};
      const code = body['code'] as string | undefined;
      return { status: response.statusCode, code, body, headers: response.headers };
    },
  };
}

const said = { reason: 'because' };
const BODIES: { readonly [ending: string]: object } = {
  sagas: { definition: 'visit', input: { city: 'Rome' } },
  batch: { items: [{ definition: 'visit', input: { city: 'Rome' } }] },
  ':name': { by: 'bob' },
  cancel: {},
  pause: {},
  resume: {},
  retry: {},
  skip: said,
  resolve: { ...said, output: { seat: '1A' } },
  complete: { outcome: 'succeeded', output: { seat: '1A' } },
  redrive: {},
  keys: { name: 'a key', role: 'reader', namespaces: null, expiresAt: null },
  revoke: {},
};

/** A request that the route takes, by its form, when the caller may make it. */
export function requestFor(
  { method, url }: TestRoute,
  namespace = 'green',
): { method: 'GET' | 'POST'; url: string; payload?: object } {
  const path = url
    .replace(':namespace', namespace)
    .replace(':sagaId', SAGA)
    .replace(':commandId', `${SAGA}.1`)
    .replace('definitions/:name', 'definitions/visit')
    .replace(':name', 'approve')
    .replace(':version', '1')
    .replace('keys/:id', 'keys/0123456789ab')
    .replace(':id', LETTER_ID);
  if (method === 'GET') return { method, url: path };
  const payload = BODIES[url.slice(url.lastIndexOf('/') + 1)];
  if (payload === undefined) throw new Error(`${url} has no body here: give it one`);
  return { method, url: path, payload };
}
