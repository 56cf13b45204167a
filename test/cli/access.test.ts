/** Settings and arguments of access: what is open by default, what is refused with its remedy, and that secrets are hidden. */
import { describe, expect, test } from 'vitest';
import { makeKey } from '../../api/access/keys.ts';
import { accessOf, isAuthRequired } from '../../cli/access.ts';
import { parseKeyOrder, UsageError, whoActs } from '../../cli/keys.ts';
import { describeSettings, parseSettings } from '../../cli/settings.ts';
import { memoryAccess, systemClock } from '../../engine/memory/index.ts';

describe('authentication', () => {
  test.each([
    ['start', {}, false],
    ['start', { SAGAX_HOST: 'localhost' }, false],
    ['start', { SAGAX_HOST: '::1' }, false],
    ['start', { SAGAX_HOST: '0.0.0.0' }, true],
    ['start', { SAGAX_HOST: '::' }, true],
    ['start', { SAGAX_AUTH: 'on' }, true],
    ['api', {}, true],
    ['api', { SAGAX_HOST: '0.0.0.0' }, true],
    ['api', { SAGAX_AUTH: 'off' }, false],
  ] as const)('of `%s` with %j is required: %s', (command, env, required) => {
    expect(isAuthRequired(parseSettings(env), command)).toBe(required);
  });

  test.each([
    [{ SAGAX_AUTH: 'off', SAGAX_HOST: '0.0.0.0' }, /SAGAX_AUTH=off lets in everyone.*keys create/s],
    [
      { SAGAX_AUTH: 'off', SAGAX_HOST: '127.0.0.1.evil.example' },
      /SAGAX_AUTH=off lets in everyone/,
    ],
    [{ SAGAX_ADMIN_KEY: 'geheim' }, /SAGAX_ADMIN_KEY=\(hidden\): a whole key/],
    [{ SAGAX_JWKS_URL: 'http://id.example.com/jwks' }, /SAGAX_JWKS_URL.*https:/],
    [{ SAGAX_JWKS_URL: 'https://id.example.com/jwks' }, /go together: set all three/],
    [{ SAGAX_TRUST_PROXY: '10.0.0.0/99' }, /SAGAX_TRUST_PROXY.*an address or a network/],
    [{ SAGAX_RATE_LIMIT_PER_S: '0' }, /SAGAX_RATE_LIMIT_PER_S/],
  ])('settings %j stop the start', (env, words) => {
    expect(() => parseSettings(env)).toThrow(words);
    expect(() => parseSettings(env)).not.toThrow(/geheim/);
  });

  test('settings that fit are taken', () => {
    const { key } = makeKey();
    expect(
      parseSettings({
        SAGAX_ADMIN_KEY: key,
        SAGAX_JWKS_URL: 'https://id.example.com/jwks',
        SAGAX_JWT_ISSUER: 'https://id.example.com/',
        SAGAX_JWT_AUDIENCE: 'sagax',
        SAGAX_TRUST_PROXY: '10.0.0.0/8, ::1',
      }),
    ).toMatchObject({ SAGAX_ADMIN_KEY: key, SAGAX_TRUST_PROXY: ['10.0.0.0/8', '::1'] });
  });
});

describe('`keys create`', () => {
  test.each([
    [[]],
    [['--role', 'root', '--expires', 'never']],
    [['--role', 'reader']],
    [['--role', 'reader', '--expires', '30 days']],
    [['--role', 'reader', '--expires', '0d']],
    [['--role', 'reader', '--expires', '1d', '--namespace', 'UPPER']],
    [['--role', 'reader', '--expires', '1d', '--password', 'x']],
  ])('refuses %j', (args) => {
    expect(() => parseKeyOrder(args)).toThrow(UsageError);
  });

  test('reads role, namespaces, name and end', () => {
    const given = '--role operator --namespace blue --namespace green --name shop --expires 30d';
    expect(parseKeyOrder(given.split(' '))).toEqual({
      role: 'operator',
      namespaces: ['blue', 'green'],
      name: 'shop',
      lifetimeMs: 30 * 86_400_000,
    });
    const forever = parseKeyOrder(['--role', 'admin', '--expires', 'never']);
    expect(forever).toMatchObject({ namespaces: null, lifetimeMs: null });
  });
});

describe('keys from the command line', () => {
  const order = (text: unknown) => {
    const [, args = ''] = /-- keys create ([^`]*)`/.exec(String(text)) ?? [];
    return parseKeyOrder(args.split(' '));
  };

  test('are made by the commands that refusals name', async () => {
    const refused = () => parseSettings({ SAGAX_AUTH: 'off', SAGAX_HOST: '0.0.0.0' });
    expect(order(caught(refused))).toMatchObject({ role: 'admin' });
    const postgres = { ...memoryAccess(systemClock), clock: systemClock };
    const nobody = accessOf({ settings: parseSettings({}), postgres } as never, 'api');
    const error: unknown = await nobody.catch((reason: unknown) => reason);
    expect(order(error)).toMatchObject({ role: 'admin' });
    // A shell may take what they print: npm's own words must not be in it.
    expect(`${String(caught(refused))} ${String(error)} ${describeSettings()}`).not.toMatch(
      /npm run sagax -- keys (create|generate)/,
    );
  });

  test('bear who made them, also where the user has a number and no name', () => {
    expect(whoActs(() => ({ username: 'ann' }))).toBe('cli:ann');
    const nameless = () => {
      throw new Error('ENOENT: uv_os_get_passwd returned ENOENT');
    };
    expect(whoActs(nameless)).toBe(`cli:uid ${process.getuid?.() ?? 'unknown'}`);
  });
});

function caught(work: () => unknown): unknown {
  try {
    return work();
  } catch (error) {
    return error;
  }
}
