/**
 * The readers of the bus in this process, by database: what one part of a process commits, another reads at once.
 *
 * Guards that whoever puts messages on the bus here wakes those who wait for them here, whichever object it used.
 */
export interface Reader {
  /** Messages have just been committed to these partitions. */
  published(partitionIds: ReadonlySet<number>): void;
  /** A member of a group has come or gone. */
  membershipChanged(): void;
}

const readers = new Map<string, Set<Reader>>();

/** Only readers are woken; a bus that only publishes is no neighbour. @param url of the database */
export function enlist(url: string, reader: Reader): void {
  const others = readers.get(url) ?? new Set();
  readers.set(url, others.add(reader));
}

export function delist(url: string, reader: Reader): void {
  const others = readers.get(url);
  others?.delete(reader);
  if (others?.size === 0) readers.delete(url);
}

export function wakeReaders(url: string, partitionIds: ReadonlySet<number>): void {
  for (const reader of readers.get(url) ?? []) reader.published(partitionIds);
}

export function tellMembers(url: string): void {
  for (const reader of readers.get(url) ?? []) reader.membershipChanged();
}
