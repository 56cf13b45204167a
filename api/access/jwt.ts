/**
 * JSON Web Tokens of an identity provider, checked against the keys that it publishes (JWKS).
 *
 * Guards that only tokens with an asymmetric signature, of this issuer, for this audience, and with an end are taken;
 * rights come from claims, and a token that names none has none. Keys are fetched when an unknown one is named, at most
 * once in 30 s.
 */
import { createHash } from 'node:crypto';
import { createRemoteJWKSet, errors, jwtVerify, type JWTPayload } from 'jose';
import { namespaceSchema } from '../../engine/core/wire.ts';
import type { Clock } from '../../engine/ports.ts';
import { ROLES, type Role } from '../../engine/ports-access.ts';
import { Bounded } from './bounded.ts';
import { KNOWN_GOOD_MS } from './keys.ts';
import type { Principal } from './principal.ts';

/** No HMAC: whoever could check such a token could also make one. */
const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
];
const CLOCK_TOLERANCE_S = 5;
const JWKS_TIMEOUT_MS = 3_000;
const JWKS_COOLDOWN_MS = 30_000;
/** Keys that the provider took back are taken until then. */
const JWKS_MAX_AGE_MS = 600_000;
/** How long a checked token is taken without being checked again. */
const TOKEN_CACHE_MS = 60_000;
const MAX_CACHED = 10_000;
const MAX_TOKEN_LENGTH = 8_192;
const MAX_SUBJECT_LENGTH = 128;
const MAX_NAMESPACES = 1_000;

export interface JwtOptions {
  jwksUrl: string;
  issuer: string;
  audience: string;
  /** A claim's name, or a path to it with dots. It holds a role, or a list with one among others. Default `sagax_role`. */
  roleClaim?: string;
  /** Holds a list of namespaces, or text with blanks between; `*` is all. Default `sagax_namespaces`. */
  namespacesClaim?: string;
}

export type JwtVerdict = Principal | 'invalid' | 'expired' | 'unavailable';

interface Checked {
  principal: Principal;
  until: number;
  /** Until then it may be checked again whatever else its address tries. */
  goodUntil: number;
}

export class JwtChecker {
  readonly #options: JwtOptions;
  readonly #clock: Clock;
  readonly #keys: ReturnType<typeof createRemoteJWKSet>;
  readonly #onError: (error: unknown) => void;
  /** Of tokens that were good. */
  readonly #cache = new Bounded<string, Checked>(MAX_CACHED);

  constructor(options: JwtOptions, clock: Clock, onError: (error: unknown) => void) {
    this.#options = options;
    this.#clock = clock;
    this.#onError = onError;
    this.#keys = createRemoteJWKSet(new URL(options.jwksUrl), {
      timeoutDuration: JWKS_TIMEOUT_MS,
      cooldownDuration: JWKS_COOLDOWN_MS,
      cacheMaxAge: JWKS_MAX_AGE_MS,
    });
  }

  /** The principal of a token that was checked a moment ago. */
  cached(token: string): Principal | undefined {
    const checked = this.#cache.get(nameOf(token));
    return checked !== undefined && checked.until > this.#clock.now()
      ? checked.principal
      : undefined;
  }

  /** Whether exactly this token was good lately, so that checking it is no guess. `check` tells what it is now. */
  wasGood(token: string): boolean {
    return (this.#cache.get(nameOf(token))?.goodUntil ?? 0) > this.#clock.now();
  }

  async check(token: string): Promise<JwtVerdict> {
    if (token.length > MAX_TOKEN_LENGTH) return 'invalid';
    const verdict = await this.#verify(token);
    if (verdict === 'invalid' || verdict === 'expired') this.#cache.delete(nameOf(token));
    return verdict;
  }

  async #verify(token: string): Promise<JwtVerdict> {
    try {
      const now = this.#clock.now();
      const { payload } = await jwtVerify(token, this.#keys, {
        issuer: this.#options.issuer,
        audience: this.#options.audience,
        algorithms: ALGORITHMS,
        requiredClaims: ['exp', 'sub'],
        clockTolerance: CLOCK_TOLERANCE_S,
        currentDate: new Date(now),
      });
      const principal = this.#principalOf(payload);
      if (principal === null) return 'invalid';
      const end = (payload.exp ?? 0) * 1_000;
      const until = Math.min(now + TOKEN_CACHE_MS, end);
      const goodUntil = Math.min(now + KNOWN_GOOD_MS, end);
      this.#cache.set(nameOf(token), { principal, until, goodUntil });
      return principal;
    } catch (error) {
      if (error instanceof errors.JWTExpired) return 'expired';
      if (isRefusal(error)) return 'invalid';
      this.#onError(error);
      return 'unavailable';
    }
  }

  /** null for a token that names no role of ours. */
  #principalOf(payload: JWTPayload): Principal | null {
    const role = roleOf(claimOf(payload, this.#options.roleClaim ?? 'sagax_role'));
    const subject = payload.sub ?? '';
    if (role === null || !/^[\x21-\x7e]+$/.test(subject) || subject.length > MAX_SUBJECT_LENGTH)
      return null;
    const claim = claimOf(payload, this.#options.namespacesClaim ?? 'sagax_namespaces');
    return { name: `jwt:${subject}`, role, namespaces: namespacesOf(claim) };
  }
}

/** What the token itself is at fault for; all else is the provider's, or the way to it. */
function isRefusal(error: unknown): boolean {
  const { JWTClaimValidationFailed, JWTInvalid, JWSInvalid, JWSSignatureVerificationFailed } =
    errors;
  return (
    error instanceof JWTClaimValidationFailed ||
    error instanceof JWTInvalid ||
    error instanceof JWSInvalid ||
    error instanceof JWSSignatureVerificationFailed ||
    error instanceof errors.JOSEAlgNotAllowed ||
    error instanceof errors.JOSENotSupported ||
    error instanceof errors.JWKSNoMatchingKey ||
    error instanceof errors.JWKSMultipleMatchingKeys
  );
}

/** Tokens are kept by their hash, so that a heap dump holds none for long. */
function nameOf(token: string): string {
  return createHash('sha256').update(token).digest('base64');
}

/** A claim by its whole name, else by a path with dots (`realm_access.roles`). Own members only. */
function claimOf(payload: JWTPayload, name: string): unknown {
  if (Object.hasOwn(payload, name)) return payload[name];
  let value: unknown = payload;
  for (const part of name.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part))
      return undefined;
    value = (value as { [part: string]: unknown })[part];
  }
  return value;
}

/** The highest of ours among what is listed. */
function roleOf(claim: unknown): Role | null {
  const listed: readonly unknown[] = Array.isArray(claim) ? claim : [claim];
  return [...ROLES].reverse().find((role) => listed.includes(role)) ?? null;
}

function namespacesOf(claim: unknown): ReadonlySet<string> | null {
  const listed: readonly unknown[] =
    typeof claim === 'string' ? claim.split(/\s+/) : Array.isArray(claim) ? claim : [];
  if (listed.includes('*')) return null;
  const names = listed.slice(0, MAX_NAMESPACES).flatMap((name) => {
    const parsed = namespaceSchema.safeParse(name);
    return parsed.success ? [parsed.data] : [];
  });
  return new Set(names);
}
