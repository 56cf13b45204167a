/**
 * When the next attempt is due: capped exponential back-off with jitter, without chance.
 *
 * Guards replay: the jitter is a hash of command id and attempt, so the same turn gives the same time.
 */
import type { RetryPolicy } from './steps.ts';

/** For `settle`: the same persistence as a compensation, about 10 min, then a person. */
export const SETTLEMENT_RETRY: RetryPolicy = {
  maxAttempts: 28,
  initialIntervalMs: 200,
  backoff: 2,
  maxIntervalMs: 30_000,
};

/**
 * @param failedAttempts attempts made in this budget, ≥ 1
 * @returns whole ms: between half of the back-off interval and all of it
 */
export function retryDelayMs(
  policy: RetryPolicy,
  commandId: string,
  failedAttempts: number,
): number {
  const interval = Math.min(
    policy.maxIntervalMs,
    policy.initialIntervalMs * policy.backoff ** Math.min(failedAttempts - 1, 60),
  );
  return Math.max(1, Math.round(interval * (0.5 + 0.5 * spread(commandId, failedAttempts))));
}

/** A number in [0, 1) that differs from command to command and attempt to attempt. */
function spread(commandId: string, attempt: number): number {
  let h = 0x811c9dc5 ^ attempt;
  for (let index = 0; index < commandId.length; index++) {
    h = Math.imul(h ^ commandId.charCodeAt(index), 0x01000193);
  }
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b3c6d);
  h ^= h >>> 12;
  return (h >>> 0) / 0x1_0000_0000;
}
