/**
 * JSON values: the only data that enters an event, a command or a machine's context.
 *
 * Guards replay (I9): what was live must be equal to what comes back from the log, so anything that
 * JSON would change silently (a Date, NaN, a Map, a class instance) is refused where it arises.
 */
import { DefinitionFault } from './errors.ts';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Names that would change an object's prototype when assigned; refused wherever JSON comes in. */
export const FORBIDDEN_KEYS: ReadonlySet<string> = new Set([
  '__proto__',
  'constructor',
  'prototype',
]);

/** Deepest nesting accepted in any payload: deeper input is an attack or a bug, and recursion is bounded by it. */
export const MAX_JSON_DEPTH = 64;

/**
 * A deep copy of `value` as plain JSON. Properties that are `undefined` are left out, as JSON does;
 * an undefined `value` becomes null.
 * @throws DefinitionFault naming the path of the first thing JSON can't carry unchanged.
 */
export function toJson(value: unknown, where: string): Json {
  return copy(value, where, 0);
}

function copy(value: unknown, path: string, depth: number): Json {
  if (depth > MAX_JSON_DEPTH) throw notJson(path, `nested deeper than ${MAX_JSON_DEPTH} levels`);
  switch (typeof value) {
    case 'string':
      assertKeepable(value, path);
      return value;
    case 'boolean':
      return value;
    case 'number':
      if (!Number.isFinite(value)) throw notJson(path, `the number ${value}`);
      return Object.is(value, -0) ? 0 : value;
    case 'undefined':
      return null;
    case 'object':
      return value === null ? null : copyObject(value, path, depth);
    default:
      throw notJson(path, `a ${typeof value}`);
  }
}

function copyObject(value: object, path: string, depth: number): Json {
  if (Array.isArray(value)) {
    // Not `map`, which leaves the holes of a sparse array.
    return Array.from(value, (item: unknown, index) => copy(item, `${path}[${index}]`, depth + 1));
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    throw notJson(path, `an instance of ${value.constructor?.name ?? 'an unknown class'}`);
  }
  const out: { [key: string]: Json } = {};
  for (const [key, item] of Object.entries(value)) {
    if (FORBIDDEN_KEYS.has(key)) throw notJson(`${path}.${key}`, 'a key that changes prototypes');
    assertKeepable(key, path);
    if (item !== undefined) out[key] = copy(item, `${path}.${key}`, depth + 1);
  }
  return out;
}

/** jsonb holds neither; a cut through an emoji (`name.slice(0, 1)`) is enough to make one. */
function assertKeepable(text: string, path: string): void {
  if (text.includes('\0')) throw notJson(path, 'a text with a NUL character');
  if (!text.isWellFormed()) throw notJson(path, 'a text with half a surrogate pair');
}

function notJson(path: string, what: string): DefinitionFault {
  return new DefinitionFault(
    'NOT_JSON',
    `${path} holds ${what}, which JSON can't carry unchanged. Keep plain JSON there: dates as ISO ` +
      `strings, ids and large numbers as strings.`,
  );
}

/** Whether objects and lists stand in one another more than `levels` deep; a value that is neither has no level. */
export function isNestedBeyond(value: Json, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((item) => isNestedBeyond(item, levels - 1));
}

/**
 * A deep copy with the keys of every object sorted. An author's code gets only such copies: jsonb does not keep
 * the order of keys, so code that walks them must find the same order live and on replay (I9).
 */
export function sortedCopy<T>(value: T): T {
  return sorted(value) as T;
}

function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(sorted);
  const from = value as { [key: string]: unknown };
  const out: { [key: string]: unknown } = {};
  for (const key of Object.keys(from).sort()) {
    if (from[key] !== undefined) out[key] = sorted(from[key]);
  }
  return out;
}

/** Structural equality of JSON values; the order of keys has no meaning (jsonb does not keep it). */
export function jsonEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((item, index) => jsonEqual(item, b[index]));
  }
  const left = definedEntries(a);
  const right = definedEntries(b);
  if (left.length !== right.length) return false;
  const rightOf = new Map(right);
  return left.every(([key, item]) => rightOf.has(key) && jsonEqual(item, rightOf.get(key)));
}

function definedEntries(value: object): [string, unknown][] {
  return Object.entries(value).filter(([, item]) => item !== undefined);
}

/** JSON text with the keys of every object sorted, so that equal values have equal text (for hashes). */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item)).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const parts = definedEntries(value)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
      .map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`);
    return `{${parts.join(',')}}`;
  }
  return JSON.stringify(value) ?? 'null';
}
