/**
 * Which offset each message of a commit got, from the first one of each partition.
 *
 * Guards that what is handed on to readers without being read is, to the letter, what stands on the bus.
 */
import type { BusMessage } from '../ports.ts';

/** A message of a commit, and the id of its partition. */
export interface Said {
  id: number;
  message: BusMessage;
}

/** What the statements that put messages on the bus answer: a row for each partition. */
export interface FirstOffset {
  id: number;
  first_offset: string;
}

/** A message that has been committed, as who reads it finds it. */
export interface Committed extends Pick<BusMessage, 'key' | 'headers' | 'value'> {
  /** Of its partition. */
  id: number;
  offset: bigint;
}

/** @param said all that the statement wrote, in the order in which it was given them */
export function numbered(
  said: readonly Said[],
  firsts: readonly FirstOffset[],
): readonly Committed[] {
  const next = new Map(firsts.map(({ id, first_offset }) => [id, BigInt(first_offset)]));
  return said.flatMap(({ id, message }) => {
    const offset = next.get(id);
    if (offset === undefined) return [];
    next.set(id, offset + 1n);
    const { key, headers, value } = message;
    // As they are stored: half a pair of surrogates comes back as the sign for it. In the headers it is an escape, and stays.
    return [{ id, offset, key: key.toWellFormed(), headers, value: value.toWellFormed() }];
  });
}
