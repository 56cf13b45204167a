/**
 * The users of the bus in this process, by database: what one part of a process commits, another reads at once.
 *
 * Guards that whoever puts messages on the bus here wakes those who wait for them, whichever object it used: readers of
 * this process by a call, those of others by a bell.
 */
export interface Neighbour {
  /** Messages have just been committed to these partitions. */
  published(partitionIds: readonly number[]): void;
  /** The same for readers in other processes. */
  ring(partitionIds: readonly number[]): void;
  /** A member of a group has come or gone. */
  membershipChanged(): void;
}

const neighbours = new Map<string, Set<Neighbour>>();

/** @param url of the database */
export function enlist(url: string, neighbour: Neighbour): void {
  const others = neighbours.get(url) ?? new Set();
  neighbours.set(url, others.add(neighbour));
}

export function delist(url: string, neighbour: Neighbour): void {
  const others = neighbours.get(url);
  others?.delete(neighbour);
  if (others?.size === 0) neighbours.delete(url);
}

/** @param partitionIds one entry a message */
export function wakeReaders(url: string, partitionIds: readonly number[]): void {
  const all = [...(neighbours.get(url) ?? [])];
  for (const neighbour of all) neighbour.published(partitionIds);
  // One of a process is enough.
  all[0]?.ring(partitionIds);
}

export function tellMembers(url: string): void {
  for (const neighbour of neighbours.get(url) ?? []) neighbour.membershipChanged();
}
