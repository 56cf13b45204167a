/**
 * Who is asking: the verified principal of a request, and what it may do.
 *
 * Guards that rights are compared in one place. A principal is made by the authenticator alone.
 */
import { ROLES, type Role } from '../../engine/ports-access.ts';

export interface Principal {
  /** `key:<id>`, `jwt:<subject>`, or `local` when nobody is asked for a name; up to 160 characters. */
  name: string;
  role: Role;
  /** Namespaces that it may use; null for all. */
  namespaces: ReadonlySet<string> | null;
}

/** What a route asks for: nothing, or at least this role. */
export type Access = 'public' | Role;

export function hasRole(principal: Principal, needed: Role): boolean {
  return ROLES.indexOf(principal.role) >= ROLES.indexOf(needed);
}

export function mayUse(principal: Principal, namespace: string): boolean {
  return principal.namespaces === null || principal.namespaces.has(namespace);
}

/** Longest `by` that the wire carries. */
const MAX_BY_LENGTH = 256;
/** What stands in `by` when the caller says nothing. */
export const UNSAID = 'api';

/**
 * Who acts, for the log: the verified name. A claim of the caller's own (`by` in the body: the person behind a program)
 * is kept behind it and never in its place.
 */
export function actorOf(principal: Principal, claimed: string): string {
  if (principal.name === LOCAL.name) return claimed;
  if (claimed === UNSAID || claimed === principal.name) return principal.name;
  return `${principal.name} for ${claimed}`.slice(0, MAX_BY_LENGTH).toWellFormed();
}

/** Everyone, where authentication is off. */
export const LOCAL: Principal = { name: 'local', role: 'admin', namespaces: null };
