/**
 * Who owns the data folder of an embedded Postgres, and what a dead owner left running in it.
 *
 * Guards that one live process at a time uses a folder. The owner is named by pid *and* start time,
 * since a pid comes back soon in a container; a server whose owner is dead is stopped, never shared.
 */
import { execFile } from 'node:child_process';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { SagaxError } from '../core/errors.ts';

const run = promisify(execFile);

/** How long a server that lost its owner gets to end by a fast shutdown before it is ended at once. */
const ORPHAN_STOP_MS = 20_000;
const POLL_MS = 50;

interface Owner {
  pid: number;
  /** When that process was started, in the words of the operating system; tells two users of a pid apart. */
  started: string;
}

export interface FolderLock {
  release(): Promise<void>;
}

/**
 * Takes the folder for this process. A lock whose owner is dead is taken over.
 * @throws SagaxError DATA_FOLDER_LOCKED naming the pid and the folder, when its owner lives
 */
export async function lockFolder(folder: string): Promise<FolderLock> {
  const path = join(folder, 'owner.json');
  const mine: Owner = { pid: process.pid, started: await startOf(process.pid) };
  const text = JSON.stringify(mine);
  const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  await writeFile(draft, text);
  try {
    // Two rounds: the first may find a dead owner's lock and remove it.
    for (let round = 0; round < 2; round++) {
      // `link` fails when the name is taken, and makes the file appear with all of its text at once.
      const taken = await link(draft, path).then(
        () => true,
        (error: unknown) => {
          if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
          throw error;
        },
      );
      if (taken) return { release: () => releaseLock(path, text) };
      await removeIfDead(path, folder);
    }
  } finally {
    await rm(draft, { force: true });
  }
  throw locked(folder, 'another process', 'It was taken just now.');
}

async function removeIfDead(path: string, folder: string): Promise<void> {
  const found = await readFile(path, 'utf8').catch(() => null);
  if (found === null) return;
  const owner = parseOwner(found);
  if (owner !== null && (await startOf(owner.pid)) === owner.started && owner.started !== '') {
    throw locked(folder, `process ${owner.pid}`, `Stop it (kill ${owner.pid})`);
  }
  // Moved away first: of two that see the same dead owner, one gets the file, and only that one deletes it.
  const aside = `${path}.dead.${process.pid}`;
  await rename(path, aside).catch(() => undefined);
  const moved = await readFile(aside, 'utf8').catch(() => null);
  if (moved !== null && moved !== found) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

async function releaseLock(path: string, text: string): Promise<void> {
  const found = await readFile(path, 'utf8').catch(() => null);
  if (found === text) await rm(path, { force: true });
}

function parseOwner(text: string): Owner | null {
  try {
    const value = JSON.parse(text) as Partial<Owner>;
    return typeof value.pid === 'number' && typeof value.started === 'string'
      ? { pid: value.pid, started: value.started }
      : null;
  } catch {
    return null;
  }
}

export function locked(folder: string, who: string, remedy: string): SagaxError {
  return new SagaxError(
    'DATA_FOLDER_LOCKED',
    `The data folder ${folder} is in use by ${who}. ${remedy} or choose another data folder.`,
  );
}

/** @returns '' when there is no such process. */
async function startOf(pid: number): Promise<string> {
  if (process.platform === 'linux') {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // The name in parentheses may hold blanks; the start time is the 20th field behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // A zombie holds nothing any more; it only waits for its parent.
    return fields[0] === 'Z' ? '' : (fields[19] ?? '');
  }
  if (process.platform === 'win32') return alive(pid) ? 'running' : '';
  return run('ps', ['-o', 'lstart=', '-p', String(pid)]).then(
    ({ stdout }) => stdout.trim(),
    () => '',
  );
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Pid of the postmaster that runs on this data directory, or null. The pid alone proves nothing: it is reused. */
export async function runningPostmaster(dataDir: string): Promise<number | null> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(() => null);
  const pid = Number(text?.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 0 || (await startOf(pid)) === '') return null;
  const commandLine = await commandLineOf(pid);
  // Where the command line can't be read, the pid file is believed: better refuse than run two servers.
  return commandLine === null || commandLine.includes(dataDir) ? pid : null;
}

async function commandLineOf(pid: number): Promise<string | null> {
  if (process.platform === 'linux') {
    return readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => null);
  }
  if (process.platform === 'win32') return null;
  return run('ps', ['-o', 'command=', '-p', String(pid)]).then(
    ({ stdout }) => stdout,
    () => null,
  );
}

/**
 * Clears what a dead owner left: ends a postmaster that still runs, removes a pid file that names none.
 * Only for the holder of the folder's lock. On return the data directory is free to start on.
 */
export async function clearOrphan(dataDir: string): Promise<void> {
  const pid = await runningPostmaster(dataDir);
  if (pid !== null) await endProcess(pid, ORPHAN_STOP_MS);
  await rm(join(dataDir, 'postmaster.pid'), { force: true });
}

/** Ends a postmaster: fast shutdown (SIGINT), and after `patience_ms` an immediate one; recovery is by its WAL. */
export async function endProcess(pid: number, patience_ms: number): Promise<void> {
  for (const [signal, limit_ms] of [
    ['SIGINT', patience_ms],
    ['SIGQUIT', 5_000],
    ['SIGKILL', 5_000],
  ] as const) {
    if (!send(pid, signal)) return;
    for (let waited_ms = 0; waited_ms < limit_ms; waited_ms += POLL_MS) {
      if ((await startOf(pid)) === '') return;
      await pause(POLL_MS);
    }
  }
}

/** @returns false when there is no such process (any more). */
export function send(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}
