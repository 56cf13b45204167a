/**
 * Who may use the API of this process, by the settings and what is in the database.
 *
 * Guards that an API which asks for credentials can be used by someone: with no key and no identity provider it
 * refuses to start, and says how to make a key.
 */
import type { AccessDeps } from '../api/deps.ts';
import { isLoopback } from '../api/access/loopback.ts';
import type { JwtOptions } from '../api/access/jwt.ts';
import { SagaxError } from '../engine/core/errors.ts';
import type { Connections } from './connect.ts';
import type { Settings } from './settings.ts';

export type ApiCommand = 'start' | 'api';

/** `off` is what `start` does on a loopback address, and nothing else does by itself. */
export function isAuthRequired(settings: Settings, command: ApiCommand): boolean {
  const { SAGAX_AUTH: wanted, SAGAX_HOST: host } = settings;
  if (wanted !== undefined) return wanted === 'on';
  return !(command === 'start' && isLoopback(host));
}

/** @throws SagaxError CONFIG_INVALID when nobody could use the API */
export async function accessOf(
  { settings, postgres }: Pick<Connections, 'settings' | 'postgres'>,
  command: ApiCommand,
): Promise<AccessDeps> {
  const { apiKeys, auditLog, clock } = postgres;
  const required = isAuthRequired(settings, command);
  const adminKey = settings.SAGAX_ADMIN_KEY;
  const jwt = jwtOf(settings);
  if (required && adminKey === undefined && jwt === null) {
    const now = clock.now();
    const isLive = (await apiKeys.list()).some(
      ({ revokedAt, expiresAt }) => revokedAt === null && (expiresAt === null || expiresAt > now),
    );
    if (!isLive) throw nobody(settings, command);
  }
  return {
    required,
    apiKeys,
    auditLog,
    ...(adminKey !== undefined && { adminKey }),
    ...(jwt !== null && { jwt }),
  };
}

function nobody({ SAGAX_HOST: host }: Settings, command: ApiCommand): SagaxError {
  const open =
    isLoopback(host) || command === 'start'
      ? ' For this machine alone, SAGAX_AUTH=off on SAGAX_HOST=127.0.0.1 will do.'
      : '';
  return new SagaxError(
    'CONFIG_INVALID',
    'The API asks for credentials, and there are none that it could take: no SAGAX_ADMIN_KEY, no SAGAX_JWKS_URL, no live key ' +
      'in the database. Make a key (`npm run -s sagax -- keys create --role admin --expires 90d`), or set ' +
      `SAGAX_ADMIN_KEY to what \`npm run -s sagax -- keys generate\` prints.${open}`,
  );
}

function jwtOf(settings: Settings): JwtOptions | null {
  const {
    SAGAX_JWKS_URL: jwksUrl,
    SAGAX_JWT_ISSUER: issuer,
    SAGAX_JWT_AUDIENCE: audience,
  } = settings;
  if (jwksUrl === undefined || issuer === undefined || audience === undefined) return null;
  const { SAGAX_JWT_ROLE_CLAIM: roleClaim, SAGAX_JWT_NAMESPACES_CLAIM: namespacesClaim } = settings;
  return {
    ...{ jwksUrl, issuer, audience },
    ...(roleClaim !== undefined && { roleClaim }),
    ...(namespacesClaim !== undefined && { namespacesClaim }),
  };
}
