/**
 * Where the embedded Postgres keeps its data when nothing is set.
 *
 * Guards that `npm start` works for root as well: the server then runs as another user, who can't get
 * into a folder below a closed one such as /root.
 */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

const OTHERS_MAY_ENTER = 0o001;

/** @returns `.sagax` here, or a folder of this checkout's own in /var/lib/sagax */
export async function defaultDataFolder(): Promise<string> {
  if (process.getuid?.() !== 0) return '.sagax';
  for (let folder = resolve('.'); ; folder = dirname(folder)) {
    const { mode } = await stat(folder);
    if ((mode & OTHERS_MAY_ENTER) === 0) return elsewhere();
    if (folder === dirname(folder)) return '.sagax';
  }
}

function elsewhere(): string {
  const here = resolve('.');
  const mark = createHash('sha256').update(here).digest('hex').slice(0, 8);
  return join('/var/lib/sagax', `${basename(here)}-${mark}`);
}
