/**
 * The code that documents show, for tests that compile and run it as it stands there.
 *
 * Guards that a sample which is gone fails its test.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** The first block of TypeScript behind `heading` in a file of the project. */
export async function sampleOf(file: string, heading: string): Promise<string> {
  const text = await readFile(`${root}${file}`, 'utf8');
  const code = /```ts\n([\s\S]*?)```/.exec(text.slice(text.indexOf(heading)))?.[1];
  if (code === undefined) throw new Error(`${file} has no code behind "${heading}".`);
  return code;
}
