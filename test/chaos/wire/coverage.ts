/**
 * Which statement has met which failure: the table of the campaign `sqlstates`.
 *
 * Guards that nothing is left out silently: every statement that was ever seen is a row, and what it has not met
 * yet is counted as missing.
 */
import type { Fault } from '../../support/pg-proxy.ts';
import type { Role } from '../crew.ts';

/** The SQLSTATEs that a server in order may answer with, and a line that is cut with nothing said. */
export const FAILURES: { readonly [name: string]: Fault } = {
  '40001': { kind: 'error', code: '40001' },
  '40P01': { kind: 'error', code: '40P01' },
  '55P03': { kind: 'error', code: '55P03' },
  '57014': { kind: 'error', code: '57014' },
  '57P01': { kind: 'fatal', code: '57P01' },
  '08006': { kind: 'fatal', code: '08006' },
  cut: { kind: 'cut' },
};
const NAMES = Object.keys(FAILURES);
/** One that was handed out and did not take place (the connection was gone) is handed out again after this. */
const RETAKE_MS = 3_000;

interface Row {
  role: Role;
  label: string;
  /** Seen before the first failure was injected. */
  isNormal: boolean;
  met: Set<string>;
  /** Failure → when it was handed out. */
  taken: Map<string, number>;
}

export class Coverage {
  readonly #rows = new Map<string, Row>();
  readonly #perStatement: number;
  /** When something was met last, by the monotonic clock. */
  lastMetAt = performance.now();

  /** @param perStatement how many of the failures each statement is to meet; they are drawn in turn */
  constructor(perStatement: number = NAMES.length) {
    this.#perStatement = perStatement;
  }

  note(role: Role, label: string, isNormal: boolean): void {
    const key = `${role} ${label}`;
    if (this.#rows.has(key)) return;
    this.#rows.set(key, { role, label, isNormal, met: new Set(), taken: new Map() });
  }

  /** A failure that this statement is still to meet, or null. */
  take(role: Role, label: string): string | null {
    const row = this.#rows.get(`${role} ${label}`);
    if (row === undefined) return null;
    const now = performance.now();
    const name = this.#wanted(row).find(
      (one) => now > (row.taken.get(one) ?? -Infinity) + RETAKE_MS,
    );
    if (name !== undefined) row.taken.set(name, now);
    return name ?? null;
  }

  met(role: Role, label: string, fault: Fault): void {
    const name = NAMES.find((one) => FAILURES[one] === fault);
    if (name === undefined) return;
    this.#rows.get(`${role} ${label}`)?.met.add(name);
    this.lastMetAt = performance.now();
  }

  /** What is still to be met: by one role, or by all. */
  missing(role?: Role): { role: Role; label: string; failure: string; isNormal: boolean }[] {
    return [...this.#rows.values()]
      .filter((row) => role === undefined || row.role === role)
      .flatMap((row) =>
        this.#wanted(row).map((failure) => ({
          role: row.role,
          label: row.label,
          failure,
          isNormal: row.isNormal,
        })),
      );
  }

  get figures(): { statements: number; met: number; missing: number } {
    const rows = [...this.#rows.values()];
    return {
      statements: rows.length,
      met: rows.reduce((sum, { met }) => sum + met.size, 0),
      missing: this.missing().length,
    };
  }

  /** A line for each statement: what it has met, and `-` for what it has not. */
  table(): string[] {
    return [...this.#rows.values()]
      .sort((a, b) => `${a.role} ${a.label}`.localeCompare(`${b.role} ${b.label}`))
      .map(({ role, label, met, isNormal }) => {
        const cells = NAMES.map((name) => (met.has(name) ? name : '-'.padEnd(name.length)));
        return `${role.padEnd(6)} ${cells.join(' ')}  ${label}${isNormal ? '' : ' (after failures only)'}`;
      });
  }

  #wanted({ label, met }: Row): readonly string[] {
    if (this.#perStatement >= NAMES.length) return NAMES.filter((name) => !met.has(name));
    if (met.size >= this.#perStatement) return [];
    // Begins at another failure for each statement (by the hash that ends its label), so that a short run sees all of them.
    const from = parseInt(label.slice(-6), 16);
    const turned = NAMES.map((_, index) => NAMES[(from + index) % NAMES.length] as string);
    return turned.filter((name) => !met.has(name)).slice(0, this.#perStatement - met.size);
  }
}
