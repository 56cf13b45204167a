/**
 * A hash of what a definition does: its structure, its functions' source text, its steps' policies.
 *
 * Guards caches: a snapshot made under another hash is thrown away and refolded from the log. It is
 * not a security measure, so a small non-cryptographic hash (FNV-1a, 64 bits, twice) is enough.
 */
import type { AnyStateMachine } from 'xstate';
import { specOf, type ActorSpec } from './steps.ts';

/** @returns 32 lower-case hex digits. */
export function definitionHash(
  machine: AnyStateMachine,
  actors: ReadonlyMap<string, ActorSpec>,
): string {
  const described: string[] = [];
  describe(machine.config, described, new Set());
  describe(machine.implementations.guards, described, new Set());
  describe(machine.implementations.actions, described, new Set());
  describe(machine.implementations.delays, described, new Set());
  for (const [name, spec] of [...actors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    described.push(name, describeSpec(spec));
  }
  const text = described.join('\n');
  return fnv1a64(text, 0xcbf29ce484222325n) + fnv1a64(text, 0x9ae16a3b2f90404fn);
}

function describeSpec(spec: ActorSpec): string {
  if (spec.kind === 'compensateAll') return spec.kind;
  const { class: stepClass, contract, timeoutMs, heartbeatTimeoutMs, retry, compensation } = spec;
  return JSON.stringify({
    stepClass,
    command: contract.name,
    timeoutMs,
    heartbeatTimeoutMs,
    retry,
    compensateWith: compensation?.contract.name,
    compensationRetry: compensation?.retry,
    compensationInput: compensation?.input.toString(),
  });
}

function describe(value: unknown, out: string[], seen: Set<object>): void {
  if (typeof value === 'function') {
    out.push(String(value));
    // Built-in actions are functions that carry what they do as properties.
    describeProperties(value, out, seen);
  } else if (typeof value === 'object' && value !== null) {
    if (specOf(value) !== undefined) return;
    describeProperties(value, out, seen);
  } else {
    out.push(String(value));
  }
}

function describeProperties(value: object, out: string[], seen: Set<object>): void {
  if (seen.has(value)) return;
  seen.add(value);
  for (const [key, item] of Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) {
    out.push(key);
    describe(item, out, seen);
  }
}

const MASK_64 = (1n << 64n) - 1n;
function fnv1a64(text: string, basis: bigint): string {
  let hash = basis;
  for (let index = 0; index < text.length; index++) {
    hash ^= BigInt(text.charCodeAt(index));
    hash = (hash * 0x100000001b3n) & MASK_64;
  }
  return hash.toString(16).padStart(16, '0');
}
