/**
 * Rate limits: a token bucket for each caller.
 *
 * Guards one caller's share against another, and the database against guesses. Of this process alone: n processes let
 * through n times as much. Buckets are few numbers each and their count has a limit; a full one is as good as none.
 */
import { Bounded } from './bounded.ts';

const MAX_BUCKETS = 20_000;

interface Bucket {
  tokens: number;
  at: number;
}

export class RateLimit {
  readonly #perMs: number;
  readonly #burst: number;
  readonly #now: () => number;
  readonly #buckets = new Bounded<string, Bucket>(MAX_BUCKETS);

  /** @param now monotonic time in ms */
  constructor(options: { perSecond: number; burst: number; now: () => number }) {
    this.#perMs = options.perSecond / 1_000;
    this.#burst = options.burst;
    this.#now = options.now;
  }

  /** Takes a token. @returns 0, or the seconds until there is one */
  take(caller: string): number {
    const bucket = this.#refilled(caller);
    const waitS = this.#waitS(bucket);
    if (waitS === 0) bucket.tokens -= 1;
    return waitS;
  }

  /** The same without taking one. */
  look(caller: string): number {
    return this.#waitS(this.#refilled(caller));
  }

  #waitS(bucket: Bucket): number {
    return bucket.tokens >= 1
      ? 0
      : Math.max(1, Math.ceil((1 - bucket.tokens) / this.#perMs / 1_000));
  }

  #refilled(caller: string): Bucket {
    const now = this.#now();
    let bucket = this.#buckets.get(caller);
    if (bucket === undefined) {
      bucket = { tokens: this.#burst, at: now };
      this.#buckets.set(caller, bucket);
      return bucket;
    }
    bucket.tokens = Math.min(this.#burst, bucket.tokens + (now - bucket.at) * this.#perMs);
    bucket.at = now;
    return bucket;
  }
}

/** Who an address stands for: itself, or its /64 network, which one IPv6 host has to itself. */
export function callerOf(address: string): string {
  const plain = address.startsWith('::ffff:') ? address.slice(7) : address;
  if (!plain.includes(':')) return plain;
  const [head = '', tail] = (plain.split('%')[0] ?? '').split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length);
  const groups = [...left, ...Array.from({ length: zeros }, () => '0'), ...right];
  return `${groups.slice(0, 4).join(':')}::/64`;
}
