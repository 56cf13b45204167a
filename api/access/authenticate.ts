/**
 * From the `Authorization` header to a principal: an API key, or a JSON Web Token.
 *
 * Guards the API's door: who brings nothing, or nothing that is good, is told 401 and no more; and the cost of guessing:
 * an address that failed often is refused before anything is looked up, while keys and tokens that were good within
 * the last hour go on working from it, as long as they are still good.
 */
import { timingSafeEqual } from 'node:crypto';
import type { Clock } from '../../engine/ports.ts';
import type { ApiKeys } from '../../engine/ports-access.ts';
import { ApiError } from '../problems.ts';
import { JwtChecker, type JwtOptions } from './jwt.ts';
import { hashOf, KEY_PREFIX, KeyChecker, parseKey } from './keys.ts';
import type { Principal } from './principal.ts';
import type { RateLimit } from './rate.ts';

export interface AuthenticatorOptions {
  keys: ApiKeys;
  clock: Clock;
  /** A key out of the settings, of an admin over everything; it is in no table. */
  adminKey?: string;
  jwt?: JwtOptions;
  /** Counts what failed, by address. */
  failures: RateLimit;
  log: {
    /** What failed for a reason of ours: the database, the identity provider. */
    broken(error: unknown): void;
    /** Credentials that were refused. Never the credentials themselves. */
    refused(why: string, address: string, keyId: string | null): void;
  };
}

type Verdict = Principal | 'unknown' | 'revoked' | 'invalid' | 'expired' | 'unavailable';

/** What the caller is told; which of id and secret is wrong it is not. */
const REFUSALS: { readonly [why: string]: string } = {
  unknown: 'The API key is not valid. Check it, or ask an admin for another.',
  revoked: 'The API key was revoked. Ask an admin for another.',
  expired: 'The credentials have expired. Get new ones.',
  invalid: 'The token is not valid here: its signature, issuer, audience, times or role.',
};

export class Authenticator {
  readonly #keys: KeyChecker;
  readonly #jwt: JwtChecker | null;
  readonly #admin: { id: string; hash: Buffer } | null;
  readonly #failures: RateLimit;
  readonly #log: AuthenticatorOptions['log'];

  constructor(options: AuthenticatorOptions) {
    const { keys, clock, adminKey, jwt, log } = options;
    this.#log = log;
    this.#failures = options.failures;
    this.#keys = new KeyChecker({ keys, clock, onError: log.broken });
    this.#jwt = jwt === undefined ? null : new JwtChecker(jwt, clock, log.broken);
    const admin = adminKey === undefined ? null : parseKey(adminKey);
    this.#admin =
      admin === null ? null : { id: admin.id, hash: Buffer.from(hashOf(admin.secret), 'hex') };
  }

  /**
   * @param address whose failures are counted
   * @throws ApiError UNAUTHENTICATED, RATE_LIMITED, IDENTITY_UNAVAILABLE
   * @throws SagaxError DATABASE_UNAVAILABLE
   */
  async authenticate(authorization: string | undefined, address: string): Promise<Principal> {
    const token = /^bearer +([^\s]+)$/i.exec(authorization ?? '')?.[1];
    if (token === undefined) {
      throw new ApiError(
        'UNAUTHENTICATED',
        'Send `Authorization: Bearer <API key or token>`. `npm run -s sagax -- keys create --role reader --expires 30d` makes a key.',
      );
    }
    const key = token.startsWith(KEY_PREFIX) ? parseKey(token) : null;
    const verdict = await this.#verdict(token, key, address);
    if (typeof verdict === 'object') return verdict;
    if (verdict === 'unavailable') {
      throw new ApiError(
        'IDENTITY_UNAVAILABLE',
        'The identity provider gives no keys to check the token with. Try again after the time in Retry-After.',
      );
    }
    this.#failures.take(address);
    this.#log.refused(verdict, address, key?.id ?? null);
    throw new ApiError('UNAUTHENTICATED', REFUSALS[verdict] ?? '', {
      members: { reason: verdict },
    });
  }

  async #verdict(
    token: string,
    key: { id: string; secret: string } | null,
    address: string,
  ): Promise<Verdict> {
    if (key === null) {
      const known = this.#jwt?.cached(token);
      if (known !== undefined) return known;
      if (this.#jwt?.wasGood(token) !== true) this.#assertMayGuess(address);
      if (token.startsWith(KEY_PREFIX) || this.#jwt === null) return 'unknown';
      return this.#jwt.check(token);
    }
    if (key.id === this.#admin?.id) {
      const fits = timingSafeEqual(Buffer.from(hashOf(key.secret), 'hex'), this.#admin.hash);
      return fits ? { name: `key:${key.id}`, role: 'admin', namespaces: null } : 'unknown';
    }
    const { id, secret } = key;
    if (!this.#keys.isCached(id) && !this.#keys.wasGood(id, secret)) this.#assertMayGuess(address);
    return this.#keys.check(id, secret);
  }

  #assertMayGuess(address: string): void {
    const waitS = this.#failures.look(address);
    if (waitS === 0) return;
    throw new ApiError(
      'RATE_LIMITED',
      'Too many credentials from this address were refused. Check yours, and try again after the time in Retry-After.',
      { retryAfterS: waitS },
    );
  }
}
