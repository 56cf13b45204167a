/**
 * API keys: their text, their hash, and the cache through which they are looked up.
 *
 * Guards that a secret is seen once, when it is made, and kept by nobody: at rest and in memory there is its SHA-256.
 * A fast hash is right here: 256 random bits can't be searched for, unlike passwords. If the process dies, all that is
 * lost is when keys were used last.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { SagaxError } from '../../engine/core/errors.ts';
import type { Clock } from '../../engine/ports.ts';
import type { ApiKey, ApiKeys } from '../../engine/ports-access.ts';
import { Bounded } from './bounded.ts';
import type { Principal } from './principal.ts';

const FORM = /^sgx_([0-9a-f]{12})_([A-Za-z0-9_-]{43})$/;

/** A revoked key is refused everywhere after this long; the database is asked once a key and this time. */
export const KEY_CACHE_MS = 10_000;
/** While the database is away, a key that was good goes on working this long: starts need the bus alone. */
const KEY_STALE_MS = 60_000;
/** How long a key that the database said is good may be looked up again whatever else its address tries. */
export const KNOWN_GOOD_MS = 3_600_000;
/** How often the time of last use is written. */
const TOUCH_EVERY_MS = 60_000;
const MAX_CACHED = 10_000;

/** Prefix of every key; tools that search for leaked secrets can tell them by it. */
export const KEY_PREFIX = 'sgx_';

export interface MadeKey {
  id: string;
  /** The whole key, `sgx_<id>_<secret>`. Show it once; it can't be found again. */
  key: string;
  hash: string;
}

export function makeKey(): MadeKey {
  const id = randomBytes(6).toString('hex');
  const secret = randomBytes(32).toString('base64url');
  return { id, key: `${KEY_PREFIX}${id}_${secret}`, hash: hashOf(secret) };
}

export function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

/** @returns null for a text that has not the form of a key */
export function parseKey(text: string): { id: string; secret: string } | null {
  const match = FORM.exec(text);
  return match === null ? null : { id: match[1] ?? '', secret: match[2] ?? '' };
}

export type KeyVerdict = Principal | 'unknown' | 'expired' | 'revoked';

interface Cached {
  key: ApiKey | null;
  at: number;
}

/** A whole key that was good when the database was last asked. */
interface Good {
  hash: string;
  at: number;
}

export class KeyChecker {
  readonly #keys: ApiKeys;
  readonly #clock: Clock;
  readonly #onError: (error: unknown) => void;
  readonly #cache = new Bounded<string, Cached>(MAX_CACHED);
  /** By id. Apart from the cache, so that ids that callers make up crowd no good key out. */
  readonly #good = new Bounded<string, Good>(MAX_CACHED);
  readonly #asking = new Map<string, Promise<ApiKey | null>>();
  readonly #used = new Set<string>();
  #touchedAt: number;

  constructor(options: { keys: ApiKeys; clock: Clock; onError: (error: unknown) => void }) {
    this.#keys = options.keys;
    this.#clock = options.clock;
    this.#onError = options.onError;
    this.#touchedAt = options.clock.now();
  }

  /** Whether a look at this key costs no question to the database. */
  isCached(id: string): boolean {
    const cached = this.#cache.get(id);
    if (cached === undefined || cached.key === null) return false;
    return this.#clock.now() - cached.at < KEY_CACHE_MS;
  }

  /**
   * Whether exactly this key was good lately. Then looking it up is no guess: who has the whole key has nothing to find
   * out, and it is looked up no more often than the cache ends. It may have been revoked since; `check` tells.
   */
  wasGood(id: string, secret: string): boolean {
    const good = this.#good.get(id);
    if (good === undefined || this.#clock.now() - good.at >= KNOWN_GOOD_MS) return false;
    return isSame(hashOf(secret), good.hash);
  }

  /** @throws SagaxError DATABASE_UNAVAILABLE when it can't be told */
  async check(id: string, secret: string): Promise<KeyVerdict> {
    const { key, at } = await this.#find(id);
    const hash = hashOf(secret);
    // A key that is not there is compared too, so that time does not tell which ids exist.
    const fits = isSame(hash, key?.hash ?? NOBODY);
    // Only what the database says of the key itself counts against it: a wrong secret is somebody else's.
    if (key === null) this.#good.delete(id);
    if (key === null || !fits) return 'unknown';
    const verdict = this.#stateOf(key);
    if (verdict !== 'live') {
      this.#good.delete(id);
      return verdict;
    }
    if (this.#good.get(id)?.at !== at) this.#good.set(id, { hash, at });
    this.#note(id);
    return {
      name: `key:${id}`,
      role: key.role,
      namespaces: key.namespaces === null ? null : new Set(key.namespaces),
    };
  }

  #stateOf({ revokedAt, expiresAt }: ApiKey): 'live' | 'revoked' | 'expired' {
    if (revokedAt !== null) return 'revoked';
    return expiresAt !== null && expiresAt <= this.#clock.now() ? 'expired' : 'live';
  }

  async #find(id: string): Promise<Cached> {
    const cached = this.#cache.get(id);
    const now = this.#clock.now();
    if (cached !== undefined && now - cached.at < KEY_CACHE_MS) return cached;
    let asked = this.#asking.get(id);
    if (asked === undefined) {
      asked = this.#keys.find(id).finally(() => this.#asking.delete(id));
      this.#asking.set(id, asked);
    }
    try {
      const found = { key: await asked, at: now };
      this.#cache.set(id, found);
      return found;
    } catch (error) {
      const isAway = error instanceof SagaxError && error.kind === 'retryable';
      const isFresh = cached !== undefined && now - cached.at < KEY_STALE_MS;
      if (isAway && isFresh && cached.key !== null) return cached;
      throw error;
    }
  }

  #note(id: string): void {
    this.#used.add(id);
    const now = this.#clock.now();
    if (now - this.#touchedAt < TOUCH_EVERY_MS && this.#used.size < MAX_CACHED) return;
    this.#touchedAt = now;
    const ids = [...this.#used];
    this.#used.clear();
    this.#keys.touch(ids).catch(this.#onError);
  }
}

/** Of two hashes, in constant time. */
function isSame(one: string, other: string): boolean {
  return timingSafeEqual(Buffer.from(one, 'hex'), Buffer.from(other, 'hex'));
}

/** The hash of nothing that can be sent. */
const NOBODY = '0'.repeat(64);
