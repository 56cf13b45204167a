/** What the environment may hold beside settings, and that texts name no variable that would stop the next start. */
import { describe, expect, test } from 'vitest';
import { parseSettings } from '../../cli/settings.ts';
import { welcome } from '../../cli/welcome.ts';

/** What Kubernetes puts into each pod for a Service of this name. */
const linksOf = (service: string) => ({
  [`${service}_SERVICE_HOST`]: '10.0.0.1',
  [`${service}_SERVICE_PORT`]: '8080',
  [`${service}_SERVICE_PORT_HTTP`]: '8080',
  [`${service}_PORT`]: 'tcp://10.0.0.1:8080',
  [`${service}_PORT_8080_TCP`]: 'tcp://10.0.0.1:8080',
  [`${service}_PORT_8080_TCP_PROTO`]: 'tcp',
  [`${service}_PORT_8080_TCP_PORT`]: '8080',
  [`${service}_PORT_8080_TCP_ADDR`]: '10.0.0.1',
  [`${service}_PORT_53_UDP`]: 'udp://[fd00::1]:53',
});

describe('variables that begin with SAGAX_', () => {
  test.each([['SAGAX'], ['SAGAX_API'], ['SAGAX_HEALTH'], ['SAGAX_BLUE_2']])(
    'are passed over when Kubernetes tells of a Service by them: %s',
    (service) => {
      expect(parseSettings(linksOf(service))).toEqual(parseSettings({}));
    },
  );

  test('are settings when they are named and formed so', () => {
    const given = { ...linksOf('SAGAX_API'), SAGAX_PORT: '8081', SAGAX_HEALTH_PORT: '9090' };
    expect(parseSettings(given)).toMatchObject({ SAGAX_PORT: 8081, SAGAX_HEALTH_PORT: 9090 });
  });

  test.each([
    [{ SAGAX_PROT: '8080' }, /SAGAX_PROT is no setting/],
    [{ SAGAX_PROT: 'tcp://10.0.0.1:8080' }, /SAGAX_PROT is no setting/],
    [{ SAGAX_API_PORT: '8080' }, /SAGAX_API_PORT is no setting/],
    [{ SAGAX_SERVICE: 'payments' }, /SAGAX_SERVICE is no setting/],
    [{ SAGAX_SERVICE_HOSTS: 'a' }, /SAGAX_SERVICE_HOSTS is no setting/],
    [{ SAGAX_PORT_8080: '1' }, /SAGAX_PORT_8080 is no setting/],
    [{ SAGAX_PORT: 'http://10.0.0.1:8080' }, /SAGAX_PORT=.*a whole number/],
    [{ SAGAX_HOST: 'tcp://x', SAGAX_KEY: 'x' }, /SAGAX_KEY is no setting/],
  ])('are refused when they are neither: %j', (env, words) => {
    expect(() => parseSettings(env)).toThrow(words);
  });
});

test('what `start` says to try names no variable that stops the next command', () => {
  const text = welcome('http://127.0.0.1:8080', {
    bus: 'postgres',
    isOpen: false,
    own: [],
    hasWorkers: true,
  });
  const named = [...text.matchAll(/\$([A-Z_]+)/g)].map(([, name]) => [name, 'sgx_…'] as const);
  expect(named).not.toEqual([]);
  expect(() => parseSettings(Object.fromEntries(named))).not.toThrow();
});
