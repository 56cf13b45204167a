/** JSON Web Tokens: only what the identity provider signed, for this API, with an end and a role, gets in. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ManualClock } from '../../engine/memory/index.ts';
import { openSecureApi, SAGA, type SecureApi } from './access-support.ts';

const ISSUER = 'https://id.example.com/';
const rsa = await generateKeyPair('RS256');
const ec = await generateKeyPair('ES256');
const stranger = await generateKeyPair('RS256');

const served = { keys: [] as object[], requests: 0, isDown: false };
const provider = createServer((_request, response) => {
  served.requests += 1;
  if (served.isDown) response.writeHead(500).end();
  else response.setHeader('content-type', 'application/json').end(JSON.stringify(served));
});
let jwt: { jwksUrl: string; issuer: string; audience: string };
beforeAll(async () => {
  served.keys = [
    { ...(await exportJWK(rsa.publicKey)), kid: 'rsa', alg: 'RS256', use: 'sig' },
    { ...(await exportJWK(ec.publicKey)), kid: 'ec', alg: 'ES256', use: 'sig' },
  ];
  await new Promise<void>((resolve) => provider.listen(0, '127.0.0.1', resolve));
  const { port } = provider.address() as AddressInfo;
  jwt = { jwksUrl: `http://127.0.0.1:${port}/jwks`, issuer: ISSUER, audience: 'sagax' };
});
afterAll(() => new Promise((resolve) => provider.close(resolve)));

type Claims = { [claim: string]: unknown };
const claims = { sub: 'ann', sagax_role: 'operator', sagax_namespaces: ['default', 'blue'] };
const inAnHour = (): number => Math.floor(Date.now() / 1000) + 3_600;
const unsigned = (over: Claims): Claims => ({
  iss: ISSUER,
  aud: 'sagax',
  exp: inAnHour(),
  ...claims,
  ...over,
});
const token = (over: Claims = {}, kid = 'rsa', key = rsa.privateKey): Promise<string> =>
  new SignJWT(unsigned(over))
    .setProtectedHeader({ alg: kid === 'ec' ? 'ES256' : 'RS256', kid })
    .sign(key);
const open = (over: object = {}): Promise<SecureApi> =>
  openSecureApi({ access: { jwt: { ...jwt, ...over } } });
const get = async (api: SecureApi, bearer: string, url = '/v1/sagas') =>
  api.ask(bearer, 'GET', url);

describe('a token', () => {
  it('of the provider lets in, with its role, its namespaces and its subject as who acts', async () => {
    const api = await open();
    for (const bearer of [await token(), await token({}, 'ec', ec.privateKey)]) {
      expect(await get(api, bearer)).toMatchObject({ status: 200 });
      expect(await get(api, bearer, '/v1/namespaces/green/sagas')).toMatchObject({ status: 403 });
      expect(await get(api, bearer, '/v1/keys')).toMatchObject({ status: 403, code: 'FORBIDDEN' });
    }
    await api.ask(await token(), 'POST', `/v1/sagas/${SAGA}/pause`, { by: 'somebody else' });
    expect(api.inbox()).toMatchObject([
      { type: 'operator', body: { by: 'jwt:ann for somebody else' } },
    ]);
  });

  it.each<[string, () => Promise<string>]>([
    ['of another issuer', () => token({ iss: 'https://evil.example.com/' })],
    ['for another audience', () => token({ aud: 'shop' })],
    ['without an end', () => token({ exp: undefined })],
    ['not yet valid', () => token({ nbf: inAnHour() })],
    ['without a subject', () => token({ sub: undefined })],
    ['with a subject that would forge a log line', () => token({ sub: 'ann\nroot' })],
    ['without a role', () => token({ sagax_role: undefined })],
    ['with a role that there is not', () => token({ sagax_role: 'root' })],
    ['signed by a stranger', () => token({}, 'rsa', stranger.privateKey)],
    ['signed with a key that the provider has not', () => token({}, 'gone', stranger.privateKey)],
    ['unsigned', async () => new UnsecuredJWT(unsigned({})).encode()],
    [
      'signed with the public key as if it were a password',
      async () =>
        new SignJWT(unsigned({}))
          .setProtectedHeader({ alg: 'HS256', kid: 'rsa' })
          .sign(new TextEncoder().encode(await exportSPKI(rsa.publicKey))),
    ],
    ['that was changed', async () => (await token()).replace(/\.(..)/, '.AA')],
    ['that is endless', async () => `${await token()}${'A'.repeat(10_000)}`],
  ])('%s is refused', async (_name, make) => {
    const api = await open();
    const answer = await get(api, await make());
    expect(answer).toMatchObject({
      status: 401,
      code: 'UNAUTHENTICATED',
      body: { reason: 'invalid' },
    });
  });

  it('that has expired is told so', async () => {
    const past = Math.floor(Date.now() / 1000) - 60;
    expect(await get(await open(), await token({ exp: past }))).toMatchObject({
      status: 401,
      body: { reason: 'expired' },
    });
  });

  it.each<[Claims, string, number]>([
    [{ sagax_namespaces: undefined }, '/v1/sagas', 403],
    [{ sagax_namespaces: 'blue green' }, '/v1/namespaces/green/sagas', 200],
    [{ sagax_namespaces: 'blue green' }, '/v1/sagas', 403],
    [{ sagax_namespaces: ['*'] }, '/v1/shards', 200],
    [{ sagax_namespaces: { default: true } }, '/v1/sagas', 403],
  ])('with namespaces %j gets %s: %i', async (over, url, status) => {
    expect(await get(await open(), await token(over), url)).toMatchObject({ status });
  });

  it('may have its role in a list within a claim; nothing that objects inherit counts', async () => {
    const api = await open({ roleClaim: 'realm_access.roles' });
    const nested = { realm_access: { roles: ['offline_access', 'reader', 'operator'] } };
    expect(await get(api, await token({ ...nested, sagax_role: undefined }))).toMatchObject({
      status: 200,
    });
    const inherited = await open({ roleClaim: 'constructor.name' });
    expect(await get(inherited, await token())).toMatchObject({ status: 401 });
  });

  it('that was good is taken while bad ones lock its address out, until it ends', async () => {
    const clock = new ManualClock(Date.now());
    const options = { authFailuresPerMin: 1 };
    const api = await openSecureApi({ clock, options, access: { jwt } });
    const [good, unseen] = [await token(), await token({ sub: 'bob' })];
    expect(await get(api, good)).toMatchObject({ status: 200 });
    const lockOut = async () => {
      await clock.advance(61_000);
      await get(api, await token({}, 'rsa', stranger.privateKey));
      expect(await get(api, unseen)).toMatchObject({ status: 429 });
    };
    await lockOut();
    expect(await get(api, good)).toMatchObject({ status: 200 });
    await lockOut();
    await clock.advance(3_600_000);
    await get(api, await token({}, 'rsa', stranger.privateKey));
    expect(await get(api, good)).toMatchObject({ status: 429 });
  });

  it('is taken only where a provider is set', async () => {
    const api = await openSecureApi();
    expect(await get(api, await token())).toMatchObject({ status: 401 });
  });
});

describe('the provider', () => {
  it('is asked once for many tokens', async () => {
    const api = await open();
    const before = served.requests;
    for (let n = 0; n < 10; n++) await get(api, await token({ sub: `user-${n}` }));
    expect(served.requests - before).toBe(1);
  });

  it('that is away is told as away, and keys go on working', async () => {
    served.isDown = true;
    try {
      const api = await open();
      const answer = await get(api, await token());
      expect(answer).toMatchObject({ status: 503, code: 'IDENTITY_UNAVAILABLE' });
      expect(answer.headers['retry-after']).toBe('1');
      expect(await get(api, await api.key('reader'))).toMatchObject({ status: 200 });
    } finally {
      served.isDown = false;
    }
  });
});
