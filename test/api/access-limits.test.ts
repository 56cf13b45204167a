/** What keys cost and how often they may be tried: caches, revocation, rate limits, long answers. */
import { describe, expect, it } from 'vitest';
import { KEY_CACHE_MS, KNOWN_GOOD_MS, makeKey, parseKey } from '../../api/access/keys.ts';
import { callerOf, RateLimit } from '../../api/access/rate.ts';
import { Bounded } from '../../api/access/bounded.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import { ManualClock } from '../../engine/memory/index.ts';
import { openSecureApi, SAGA } from './access-support.ts';

describe('keys', () => {
  it('have 256 random bits, a form of their own, and a hash that is not the key', () => {
    const made = Array.from({ length: 1_000 }, makeKey);
    expect(new Set(made.map(({ key }) => key)).size).toBe(1_000);
    for (const { id, key, hash } of made) {
      const parsed = parseKey(key);
      expect(parsed?.id).toBe(id);
      expect(Buffer.from(parsed?.secret ?? '', 'base64url')).toHaveLength(32);
      expect(hash).toMatch(/^[0-9a-f]{64}$/);
      expect(hash).not.toContain(parsed?.secret);
    }
    expect(parseKey('sgx_0123456789ab_short')).toBeNull();
  });

  it('are looked up once in ten seconds; a revoked one is refused after that, an expired one at once', async () => {
    const clock = new ManualClock();
    const api = await openSecureApi({ clock });
    let lookups = 0;
    const { find } = api.access.apiKeys;
    api.access.apiKeys.find = (id) => {
      lookups += 1;
      return find(id);
    };
    const counted = await openSecureApi({ clock, access: { apiKeys: api.access.apiKeys } });
    const key = await api.key('reader', null, clock.now() + 60_000);
    const ask = async () => (await counted.ask(key, 'GET', '/v1/sagas')).status;
    for (let n = 0; n < 20; n++) expect(await ask()).toBe(200);
    expect(lookups).toBe(1);
    await api.access.apiKeys.revoke(key.slice(4, 16));
    expect(await ask()).toBe(200);
    await clock.advance(KEY_CACHE_MS);
    expect(await ask()).toBe(401);
    expect(lookups).toBe(2);
    const short = await api.key('reader', null, clock.now() + 1_000);
    expect((await counted.ask(short, 'GET', '/v1/sagas')).status).toBe(200);
    await clock.advance(1_000);
    expect((await counted.ask(short, 'GET', '/v1/sagas')).body).toMatchObject({
      reason: 'expired',
    });
  });

  it('that were good go on for a minute while the database is away; others are told 503', async () => {
    const clock = new ManualClock();
    const api = await openSecureApi({ clock });
    let isAway = false;
    const { find } = api.access.apiKeys;
    const apiKeys = {
      ...api.access.apiKeys,
      find: async (id: string) => {
        if (isAway) throw new SagaxError('DATABASE_UNAVAILABLE', 'host db.internal is away');
        return find(id);
      },
    };
    const away = await openSecureApi({ clock, access: { apiKeys } });
    const good = await api.key('operator');
    const other = await api.key('operator');
    const start = { definition: 'visit', input: { city: 'Rome' } };
    expect((await away.ask(good, 'POST', '/v1/sagas', start)).status).toBe(202);
    isAway = true;
    await clock.advance(KEY_CACHE_MS + 1);
    expect((await away.ask(good, 'POST', '/v1/sagas', start)).status).toBe(202);
    const refused = await away.ask(other, 'POST', '/v1/sagas', start);
    expect(refused).toMatchObject({ status: 503, code: 'DATABASE_UNAVAILABLE' });
    expect(refused.body['detail']).not.toContain('db.internal');
    await clock.advance(60_000);
    expect((await away.ask(good, 'POST', '/v1/sagas', start)).status).toBe(503);
  });

  it('are noted as used about once a minute', async () => {
    const clock = new ManualClock();
    const api = await openSecureApi({ clock });
    const key = await api.key('reader');
    const stored = () => api.access.keys.get(key.slice(4, 16))?.usedAt;
    await api.ask(key, 'GET', '/v1/sagas');
    expect(stored()).toBeNull();
    await clock.advance(60_000);
    await api.ask(key, 'GET', '/v1/sagas');
    expect(stored()).toBe(clock.now());
  });

  it('out of the settings are of an admin over everything, and in no table', async () => {
    const { key } = makeKey();
    const api = await openSecureApi({ access: { adminKey: key } });
    expect((await api.ask(key, 'GET', '/v1/keys')).body).toEqual({ items: [] });
    const wrong = `${key.slice(0, 17)}${makeKey().key.slice(17)}`;
    expect((await api.ask(wrong, 'GET', '/v1/keys')).status).toBe(401);
  });
});

describe('rate limits', () => {
  it('are by principal: one that is over its share is told when to come back, others go on', async () => {
    const clock = new ManualClock();
    const api = await openSecureApi({ clock, options: { rateLimitPerS: 5 } });
    const [busy, calm] = [await api.key('reader'), await api.key('reader')];
    const ask = async (key: string | null, url = '/v1/sagas') => api.ask(key, 'GET', url);
    for (let n = 0; n < 5; n++) expect((await ask(busy)).status).toBe(200);
    const over = await ask(busy);
    expect(over).toMatchObject({ status: 429, code: 'RATE_LIMITED' });
    expect(over.headers['retry-after']).toBe('1');
    expect(over.headers['content-type']).toContain('application/problem+json');
    expect((await ask(calm)).status).toBe(200);
    await clock.advance(200);
    expect((await ask(busy)).status).toBe(200);
    expect((await ask(busy)).status).toBe(429);
  });

  it('are by address for those who bring no credentials, also where none are needed', async () => {
    const api = await openSecureApi({ clock: new ManualClock(), options: { rateLimitPerS: 3 } });
    const statuses = [];
    for (let n = 0; n < 4; n++) statuses.push((await api.ask(null, 'GET', '/v1/sagas')).status);
    expect(statuses).toEqual([401, 401, 401, 429]);
    expect((await api.ask(null, 'GET', '/healthz')).status).toBe(429);
  });

  it('stop who guesses before anything is looked up; a key that is known to be good still works', async () => {
    const clock = new ManualClock();
    const api = await openSecureApi({ clock, options: { authFailuresPerMin: 6 } });
    const good = await api.key('reader');
    const unseen = await api.key('reader');
    const ask = async (key: string) => (await api.ask(key, 'GET', '/v1/sagas')).status;
    expect(await ask(good)).toBe(200);
    const guesses = [];
    for (let n = 0; n < 8; n++) guesses.push(await ask(makeKey().key));
    expect(guesses).toEqual([401, 401, 401, 401, 401, 401, 429, 429]);
    expect(await ask(good)).toBe(200);
    expect(await ask(unseen)).toBe(429);
    await clock.advance(10_000);
    expect(await ask(unseen)).toBe(200);
  });

  it('of guesses keep no key out that was good within the hour, and are no way to look it up often', async () => {
    const clock = new ManualClock();
    const api = await openSecureApi({ clock, options: { authFailuresPerMin: 1 } });
    const lookups: string[] = [];
    const { find } = api.access.apiKeys;
    api.access.apiKeys.find = (id) => {
      lookups.push(id);
      return find(id);
    };
    const [good, revoked, gone, ended, idle] = [
      await api.key('reader'),
      await api.key('reader'),
      await api.key('reader'),
      await api.key('reader', null, clock.now() + 30_000),
      await api.key('reader'),
    ];
    const ask = async (key: string) => (await api.ask(key, 'GET', '/v1/sagas')).status;
    const guess = async () => expect([401, 429]).toContain(await ask(makeKey().key));
    for (const key of [good, revoked, gone, ended, idle]) expect(await ask(key)).toBe(200);
    await api.access.apiKeys.revoke(revoked.slice(4, 16));
    api.access.keys.delete(gone.slice(4, 16));
    await clock.advance(KEY_CACHE_MS * 4);
    await guess();
    expect(await ask(makeKey().key)).toBe(429);

    // The id alone opens nothing: it must be the whole key, and looking that up is a question each ten seconds.
    lookups.length = 0;
    const wrong = `${good.slice(0, 17)}${makeKey().key.slice(17)}`;
    expect(await ask(wrong)).toBe(429);
    expect(lookups).toEqual([]);
    for (let n = 0; n < 20; n++) expect(await ask(good)).toBe(200);
    expect(lookups).toEqual([good.slice(4, 16)]);

    // What was good and is not any more is refused at once, and then is a guess like others.
    for (const key of [revoked, gone, ended]) expect(await ask(key)).toBe(401);
    lookups.length = 0;
    await clock.advance(KEY_CACHE_MS);
    for (const key of [revoked, gone, ended]) expect(await ask(key)).toBe(429);
    expect(lookups).toEqual([]);

    // A wrong secret under its id takes nothing from the key.
    expect(await ask(good)).toBe(200);
    expect(await ask(wrong)).toBe(401);
    await clock.advance(KEY_CACHE_MS);
    expect(await ask(good)).toBe(200);

    // Seen again and again it stays known; what was not seen for an hour is not.
    for (let passed = 0; passed < KNOWN_GOOD_MS; passed += KNOWN_GOOD_MS / 4) {
      await clock.advance(KNOWN_GOOD_MS / 4);
      await guess();
      expect(await ask(good)).toBe(200);
    }
    expect(await ask(idle)).toBe(429);
  });

  it('see the caller behind a proxy only when the proxy is trusted', async () => {
    for (const [trustProxy, second] of [
      [['127.0.0.1'], 401],
      [[], 429],
    ] as const) {
      const clock = new ManualClock();
      const api = await openSecureApi({ clock, options: { rateLimitPerS: 1, trustProxy } });
      const from = async (address: string) =>
        (await api.ask(null, 'GET', '/', undefined, { 'x-forwarded-for': address })).status;
      expect(await from('192.0.2.1')).toBe(401);
      expect(await from('192.0.2.2')).toBe(second);
    }
  });

  it('take IPv6 addresses of one network, and IPv4 in IPv6, as one caller', () => {
    expect(callerOf('192.0.2.1')).toBe('192.0.2.1');
    expect(callerOf('::ffff:192.0.2.1')).toBe('192.0.2.1');
    expect(callerOf('2001:db8:1:2:3:4:5:6')).toBe('2001:db8:1:2::/64');
    expect(callerOf('2001:db8:1:2::6')).toBe('2001:db8:1:2::/64');
    expect(callerOf('2001:db8::6')).toBe('2001:db8:0:0::/64');
    expect(callerOf('::1')).toBe('0:0:0:0::/64');
    expect(callerOf('fe80::1%eth0')).toBe('fe80:0:0:0::/64');
  });

  it('keep a bounded number of callers, and refill no further than the burst', () => {
    let now = 0;
    const limit = new RateLimit({ perSecond: 10, burst: 2, now: () => now });
    expect([limit.take('a'), limit.take('a'), limit.take('a')]).toEqual([0, 0, 1]);
    now = 3_600_000;
    expect([limit.take('a'), limit.take('a'), limit.take('a')]).toEqual([0, 0, 1]);
    const slow = new RateLimit({ perSecond: 0.1, burst: 1, now: () => now });
    expect([slow.take('a'), slow.take('a'), slow.look('b')]).toEqual([0, 10, 0]);
    const bounded = new Bounded<number, number>(3);
    for (let n = 0; n < 100; n++) bounded.set(n, n);
    expect([bounded.size, bounded.get(96), bounded.get(97)]).toEqual([3, undefined, 97]);
  });
});

describe('those who wait', () => {
  it('are at most half by one principal: it is told so, and others still get their share', async () => {
    const api = await openSecureApi({ options: { maxWaiters: 4 } });
    const [greedy, calm, observer] = [
      await api.key('reader'),
      await api.key('reader'),
      await api.key('reader'),
    ];
    const wait = (key: string, s = 60) => api.ask(key, 'GET', `/v1/sagas/${SAGA}/result?wait=${s}`);
    const headers = { authorization: `Bearer ${observer}` };
    const waiters = async () => (await api.app.inject({ url: '/metrics', headers })).body;
    const taken = [wait(greedy), wait(greedy)];
    await expect.poll(waiters, { timeout: 5_000 }).toContain('sagax_api_waiters 2');
    const refused = await wait(greedy);
    expect(refused).toMatchObject({ status: 503, code: 'OVERLOADED' });
    expect(refused.body['detail']).toContain('Wait for fewer at once');
    expect(await wait(greedy, 0)).toMatchObject({ status: 202 });
    const others = wait(calm);
    await expect.poll(waiters, { timeout: 5_000 }).toContain('sagax_api_waiters 3');
    // What it let go of it may have again.
    api.become({ sagaId: SAGA, status: 'completed', streamVersion: 3 });
    for (const answer of [...taken, others]) expect(await answer).toMatchObject({ status: 200 });
    api.become({ sagaId: SAGA, status: 'running', streamVersion: 4 });
    const again = [wait(greedy), wait(greedy)];
    await expect.poll(waiters, { timeout: 5_000 }).toContain('sagax_api_waiters 2');
    await api.app.close();
    for (const answer of again) expect(await answer).toMatchObject({ status: 202 });
  });
});

describe('an event stream', () => {
  it('is cut off when the key that opened it ends', async () => {
    const api = await openSecureApi({ options: { heartbeatMs: 20 } });
    const key = await api.key('reader', null, Date.now() + 500);
    const address = await api.app.listen({ host: '127.0.0.1', port: 0 });
    const answer = await fetch(`${address}/v1/sagas/${SAGA}/history/stream`, {
      headers: { authorization: `Bearer ${key}` },
    });
    expect(answer.status).toBe(200);
    // The text is whole only once the server has ended the stream.
    const text = await answer.text();
    expect(text).toContain('event: StepRequested');
    expect(text).not.toContain('event: end');
    await api.app.close();
  });
});
