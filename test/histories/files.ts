/** Where recorded histories are, and the definitions that they belong to. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WRITTEN } from '../simulation/plan.ts';
import { parseHistory, type History } from './format.ts';

export const FOLDER = fileURLToPath(new URL('recorded', import.meta.url));

/**
 * Definitions of the examples and of the simulation. When one gets a new version, its old one is kept and put in
 * here too: sagas that began on it must go on being readable.
 */
export const DEFINITIONS = WRITTEN;

export function recordedFiles(): string[] {
  return readdirSync(FOLDER)
    .filter((name) => name.endsWith('.jsonl'))
    .sort();
}

/** @throws Error when it is not as it was written */
export function readRecorded(name: string): History {
  return parseHistory(readFileSync(join(FOLDER, name), 'utf8'));
}
