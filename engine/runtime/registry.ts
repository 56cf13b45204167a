/**
 * The definitions that a process knows, by name and version.
 *
 * Guards that two different definitions never share a name and a version.
 */
import type { AnyDefinition } from '../core/define.ts';
import { SagaxError } from '../core/errors.ts';

export interface Registry {
  get(name: string, version: number): AnyDefinition | undefined;
  newest(name: string): AnyDefinition | undefined;
  all(): AnyDefinition[];
  /** Services that any definition sends commands to. */
  services(): string[];
}

/** @throws SagaxError DEFINITION_INVALID when a name and version come twice. */
export function createRegistry(definitions: readonly AnyDefinition[]): Registry {
  const byName = new Map<string, Map<number, AnyDefinition>>();
  for (const definition of definitions) {
    const versions = byName.get(definition.name) ?? new Map<number, AnyDefinition>();
    if (versions.has(definition.version)) {
      throw new SagaxError(
        'DEFINITION_INVALID',
        `${definition.name}@${definition.version} is declared twice; give the second one another version.`,
      );
    }
    versions.set(definition.version, definition);
    byName.set(definition.name, versions);
  }
  const newest = (name: string): AnyDefinition | undefined =>
    [...(byName.get(name)?.values() ?? [])].sort((a, b) => b.version - a.version)[0];
  return {
    get: (name, version) => byName.get(name)?.get(version),
    newest,
    all: () => [...definitions],
    services: () => [...new Set(definitions.flatMap((definition) => definition.services))].sort(),
  };
}
