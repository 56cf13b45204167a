/** Durations as authors write them: `'250ms'`, `'10s'`, `'5m'`, `'2h'`, `'30d'`, or a number of ms. */
import { DefinitionFault } from './errors.ts';

export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;

const UNIT_MS: { readonly [unit: string]: number } = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** A hundred years: the database's times end, and anything longer is a mistake. */
export const MAX_DURATION_MS = 100 * 365 * 86_400_000;

/** @returns whole milliseconds > 0. @throws DefinitionFault naming `where`. */
export function durationMs(duration: Duration, where: string): number {
  const match =
    typeof duration === 'number' ? null : /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(duration);
  const ms =
    typeof duration === 'number'
      ? duration
      : Number(match?.[1]) * (UNIT_MS[match?.[2] ?? ''] ?? NaN);
  if (!(ms >= 1 && ms <= MAX_DURATION_MS)) {
    throw new DefinitionFault(
      'DEFINITION_INVALID',
      `${where} is ${JSON.stringify(duration)}; write a number of milliseconds or a text such as "250ms", "10s", "5m", "2h", "30d", up to a hundred years.`,
    );
  }
  return Math.round(ms);
}
