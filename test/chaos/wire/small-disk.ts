/**
 * A disk of a few hundred MB that can be filled to the last byte, and freed.
 *
 * Guards that "full" is the file system's own ENOSPC, met by whoever writes there, and that the mount goes with
 * the run. It is a tmpfs: mounting one needs root. Without that right there is no small disk, and whoever needs one says so.
 */
import { execFile } from 'node:child_process';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const MEGABYTE = Buffer.alloc(1024 * 1024);
/** The last bytes are taken in pieces of a page. */
const PAGE = Buffer.alloc(4096);
/** What frees itself while the disk is filled is taken too, up to this many pieces. */
const MAX_PIECES = 4096;

export class SmallDisk {
  readonly folder: string;

  /** Use `mount`. */
  constructor(folder: string) {
    this.folder = folder;
  }

  /** @throws Error when it can't be mounted here, in words that say so */
  static async mount(size_mb: number): Promise<SmallDisk> {
    const folder = await mkdtemp(join(tmpdir(), 'sagax-chaos-disk-'));
    try {
      await run('mount', ['-t', 'tmpfs', '-o', `size=${size_mb}m,mode=0755`, 'tmpfs', folder]);
    } catch (error) {
      await rmdir(folder);
      throw new Error(
        `NOT RUN: a small disk can't be mounted here (${(error as Error).message.trim()}). Run as root, where mounts are permitted.`,
        { cause: error },
      );
    }
    return new SmallDisk(folder);
  }

  /** Takes every byte that is left. @returns how many */
  fill(): number {
    let taken = 0;
    const file = openSync(this.#ballast, 'a');
    try {
      for (const piece of [MEGABYTE, PAGE]) {
        for (let n = 0; n < MAX_PIECES; n++) {
          const written = tryWrite(file, piece);
          taken += written;
          if (written < piece.length) break;
        }
      }
    } finally {
      closeSync(file);
    }
    return taken;
  }

  free(): void {
    rmSync(this.#ballast, { force: true });
  }

  /** Whoever has files open there must be gone. */
  async unmount(): Promise<void> {
    await run('umount', ['--lazy', this.folder]);
    await rmdir(this.folder);
  }

  get #ballast(): string {
    return join(this.folder, 'ballast');
  }
}

/** Whether a small disk can be had on this machine. */
export async function mayMount(): Promise<boolean> {
  try {
    await (await SmallDisk.mount(1)).unmount();
    return true;
  } catch {
    return false;
  }
}

function tryWrite(file: number, piece: Buffer): number {
  try {
    return writeSync(file, piece);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return 0;
    throw error;
  }
}
