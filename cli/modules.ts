/**
 * Modules of the user that a process runs: sagas (SAGAX_DEFINITIONS) and services (SAGAX_WORKERS).
 *
 * Guards that a module which can't be loaded, or doesn't export what it should, stops the start with words that say so.
 */
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { definitions as exampleDefinitions } from '../definitions/index.ts';
import type { AnyDefinition } from '../engine/core/define.ts';
import { SagaxError } from '../engine/core/errors.ts';
import type { Service } from '../workers/index.ts';

/** @throws SagaxError CONFIG_INVALID when the module can't be used */
export async function loadDefinitions(path: string | undefined): Promise<readonly AnyDefinition[]> {
  if (path === undefined) return exampleDefinitions;
  return load<AnyDefinition>('SAGAX_DEFINITIONS', path, {
    name: 'definitions',
    kind: 'sagax.definition',
    madeBy: 'defineSaga()',
  });
}

/** @throws SagaxError CONFIG_INVALID when the module can't be used, or has a service twice */
export async function loadServices(path: string): Promise<readonly Service[]> {
  const services = await load<Service>('SAGAX_WORKERS', path, {
    name: 'services',
    kind: 'sagax.service',
    madeBy: 'defineService()',
  });
  const names = services.map(({ service }) => service);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `SAGAX_WORKERS=${path} has the service "${twice}" twice. Put its handlers into one defineService().`,
    );
  }
  return services;
}

async function load<T>(
  setting: string,
  path: string,
  wanted: { name: string; kind: string; madeBy: string },
): Promise<readonly T[]> {
  const { name, kind, madeBy } = wanted;
  let module: { [name: string]: unknown };
  try {
    module = (await import(pathToFileURL(resolve(path)).href)) as typeof module;
  } catch (error) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `${setting}=${path} can't be loaded: ${(error as Error).message}`,
      { cause: error },
    );
  }
  const found = module[name];
  const fits =
    Array.isArray(found) &&
    found.length > 0 &&
    found.every((one: unknown) => (one as { kind?: unknown } | null)?.kind === kind);
  if (!fits) {
    throw new SagaxError(
      'CONFIG_INVALID',
      `${setting}=${path} must export \`${name}\`, a non-empty array of what ${madeBy} returns.`,
    );
  }
  return found as T[];
}
