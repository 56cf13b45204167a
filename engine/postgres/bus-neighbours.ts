/**
 * The users of the bus in this process, by database: what one part of a process commits, another reads at once.
 *
 * Guards that whoever puts messages on the bus here hands them on to those who wait for them, whichever object it used:
 * readers of this process by a call, those of others by a datagram.
 */
import type { Committed } from './bus-offsets.ts';

export interface Neighbour {
  /** Whether it is one of those who read, and so believed by those of other processes. */
  readonly isMember: boolean;
  /** These have just been committed. */
  published(messages: readonly Committed[]): void;
  /** The same for readers in other processes. */
  ring(messages: readonly Committed[]): void;
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

export function handOn(url: string, messages: readonly Committed[]): void {
  if (messages.length === 0) return;
  const all = [...(neighbours.get(url) ?? [])];
  for (const neighbour of all) neighbour.published(messages);
  // One of a process is enough.
  (all.find(({ isMember }) => isMember) ?? all[0])?.ring(messages);
}

export function tellMembers(url: string): void {
  for (const neighbour of neighbours.get(url) ?? []) neighbour.membershipChanged();
}
