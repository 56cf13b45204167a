/**
 * The definitions that this process knows, by name and version, and what the API shows of them.
 *
 * Guards that a saga is looked at with the version it was started with. A definition that is missing
 * here is named with what is there, since the usual cause is an API process older than the engine's.
 */
import { z } from 'zod';
import type { AnyDefinition } from '../engine/core/define.ts';
import type { AnyContract } from '../engine/core/contracts.ts';
import type { ActorSpec } from '../engine/core/steps.ts';
import { SagaxError } from '../engine/core/errors.ts';
import { machineView, type StateView } from './machine-view.ts';
import { mermaidOf } from './mermaid.ts';
import type { DefinitionAnswer } from './schemas.ts';
import { ApiError } from './problems.ts';
import { basePath } from './views.ts';

/** Names listed in an error: enough to see a typo, not a dump. */
const NAMES_SHOWN = 20;

export class Catalog {
  /** Name → its versions, newest first. */
  readonly #byName = new Map<string, AnyDefinition[]>();
  readonly #machines = new WeakMap<AnyDefinition, StateView>();

  /** @throws SagaxError CONFIG_INVALID when two definitions have one name and version */
  constructor(definitions: readonly AnyDefinition[]) {
    for (const definition of definitions) {
      const versions = this.#byName.get(definition.name) ?? [];
      if (versions.some((other) => other.version === definition.version)) {
        throw new SagaxError(
          'CONFIG_INVALID',
          `Definition "${definition.name}" version ${definition.version} is given twice; give the changed one a new version.`,
        );
      }
      versions.push(definition);
      versions.sort((a, b) => b.version - a.version);
      this.#byName.set(definition.name, versions);
    }
  }

  names(): string[] {
    return [...this.#byName.keys()].sort();
  }

  /** @returns the newest version when none is named. @throws ApiError DEFINITION_UNKNOWN */
  get(name: string, version?: number): AnyDefinition {
    const versions = this.#byName.get(name);
    if (versions === undefined) {
      throw new ApiError(
        'DEFINITION_UNKNOWN',
        `No definition "${name.slice(0, 128)}" is known here. Known: ${this.names().slice(0, NAMES_SHOWN).join(', ') || 'none'}.`,
      );
    }
    const found =
      version === undefined ? versions[0] : versions.find((other) => other.version === version);
    if (found === undefined) {
      throw new ApiError(
        'DEFINITION_UNKNOWN',
        `Definition "${name}" has no version ${version} here. Known: ${this.versions(name).join(', ')}.`,
      );
    }
    return found;
  }

  /** Newest first. */
  versions(name: string): number[] {
    return (this.#byName.get(name) ?? []).map(({ version }) => version);
  }

  machine(definition: AnyDefinition): StateView {
    const known = this.#machines.get(definition);
    if (known !== undefined) return known;
    const view = machineView(definition.machine, definition.actors);
    this.#machines.set(definition, view);
    return view;
  }

  mermaid(definition: AnyDefinition): string {
    return mermaidOf(this.machine(definition));
  }

  brief(definition: AnyDefinition, namespace: string) {
    return {
      name: definition.name,
      version: definition.version,
      versions: this.versions(definition.name),
      description: definition.description,
      links: definitionLinks(definition, namespace),
    };
  }

  view(definition: AnyDefinition, namespace: string): DefinitionAnswer {
    const signals = Object.entries(definition.signals as { [name: string]: z.ZodType });
    return {
      ...this.brief(definition, namespace),
      hash: definition.hash,
      services: [...definition.services],
      input: schemaJson(definition.input as z.ZodType, 'input'),
      signals: Object.fromEntries(
        signals.map(([name, schema]) => [name, schemaJson(schema, 'input')]),
      ),
      steps: [...definition.actors].map(([step, spec]) => stepView(step, spec)),
      machine: { ...this.machine(definition) },
    };
  }
}

function definitionLinks(
  definition: AnyDefinition,
  namespace: string,
): { [relation: string]: string } {
  const base = basePath(namespace);
  const self = `${base}/definitions/${definition.name}/versions/${definition.version}`;
  return {
    self,
    diagram: `${self}?format=mermaid`,
    sagas: `${base}/sagas?definition=${definition.name}`,
  };
}

function stepView(step: string, spec: ActorSpec): DefinitionAnswer['steps'][number] {
  if (spec.kind !== 'step') return { step, kind: spec.kind, ...NO_STEP };
  const contract: AnyContract = spec.contract;
  const rejections = Object.entries(contract.rejections as { [code: string]: z.ZodType });
  return {
    step,
    kind: 'step',
    class: spec.class,
    command: contract.name,
    input: schemaJson(contract.input as z.ZodType, 'input'),
    output: schemaJson(contract.output as z.ZodType, 'output'),
    rejections: Object.fromEntries(
      rejections.map(([code, schema]) => [code, schemaJson(schema, 'output')]),
    ),
    timeoutMs: spec.timeoutMs,
    heartbeatTimeoutMs: spec.heartbeatTimeoutMs,
    maxAttempts: spec.retry.maxAttempts,
    compensateWith: spec.compensation?.contract.name ?? null,
  };
}

const NO_STEP = {
  class: null,
  command: null,
  input: null,
  output: null,
  rejections: {},
  timeoutMs: null,
  heartbeatTimeoutMs: null,
  maxAttempts: null,
  compensateWith: null,
};

/** Parts that JSON Schema can't say (a transform's output, a bigint) are shown as "anything". */
function schemaJson(schema: z.ZodType, io: 'input' | 'output'): { [key: string]: unknown } {
  return z.toJSONSchema(schema, { io, unrepresentable: 'any', cycles: 'ref' }) as {
    [key: string]: unknown;
  };
}
