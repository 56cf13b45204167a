/**
 * A lock between processes of one machine: a file that holds its owner's process id.
 *
 * Guards that one at a time does the work. An owner that died is found by its process id and its lock
 * is broken by one waiter only. Plain JavaScript for Node ≥ 18, since the set-up itself uses it.
 */
import { linkSync, mkdirSync, readFileSync, rmdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 200;

/**
 * Runs `work` while holding the lock at `path`.
 * @param {string} path
 * @param {{ waitMs: number, onWait?: (pid: number) => void }} options `onWait` is called once, when another holds it
 * @param {() => Promise<void>} work
 * @throws Error naming the file to delete when the lock was not free within `waitMs`
 */
export async function withLock(path, options, work) {
  mkdirSync(dirname(path), { recursive: true });
  const giveUpAt = Date.now() + options.waitMs;
  let told = false;
  while (!take(path)) {
    const owner = ownerOf(path);
    if (owner !== null && !isAlive(owner)) {
      if (breakLock(path)) continue;
    } else if (owner !== null && !told) {
      told = true;
      options.onWait?.(owner);
    }
    if (Date.now() > giveUpAt) {
      throw new Error(
        `The lock ${path} was not free within ${options.waitMs} ms. If no other process is at work, delete ${path} and ${guardOf(path)}.`,
      );
    }
    await sleep(POLL_MS);
  }
  const drop = () => remove(path);
  process.once('exit', drop);
  try {
    await work();
  } finally {
    process.off('exit', drop);
    drop();
  }
}

/** Linking a written file makes lock and owner appear in one step: there is no lock without a readable owner. */
function take(path) {
  const own = `${path}.${process.pid}`;
  writeFileSync(own, String(process.pid));
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  } finally {
    remove(own);
  }
}

/**
 * Removes a dead owner's lock. The guard folder lets in one breaker at a time, and it looks again inside:
 * a lock that somebody else broke and took meanwhile has a living owner, and stays.
 */
function breakLock(path) {
  try {
    mkdirSync(guardOf(path));
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
  try {
    const owner = ownerOf(path);
    if (owner !== null && !isAlive(owner)) remove(path);
    return true;
  } finally {
    rmdirSync(guardOf(path));
  }
}

function guardOf(path) {
  return `${path}.breaking`;
}

function ownerOf(path) {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, as another user's.
    return error.code === 'EPERM';
  }
}

function remove(path) {
  try {
    unlinkSync(path);
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
}
