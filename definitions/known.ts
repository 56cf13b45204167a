/**
 * Guards that a step is never asked with a value that the states before it should have brought: a
 * gap in a machine shows as an error that names it, not as an empty text sent to a participant.
 */

/** @returns the value. @throws Error naming `what` when it is null: the machine got here without it. */
export function known<T>(value: T | null, what: string): T {
  if (value === null)
    throw new Error(`${what} is not known in this state; a step before it must give it.`);
  return value;
}
