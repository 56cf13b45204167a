/** The lock of the set-up, between real processes: one at a time, and none waits for the dead. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const lockModule = fileURLToPath(new URL('../../scripts/lib/lock.mjs', import.meta.url));
let folder: string;
let lock: string;
const children: ChildProcess[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sagax-lock-'));
  lock = join(folder, 'setup.lock');
});
afterEach(async () => {
  for (const child of children.splice(0)) if (child.exitCode === null) child.kill('SIGKILL');
  await rm(folder, { recursive: true });
});

/** A process that takes the lock, runs `work` (code) while it holds it, and ends. */
function holder(work: string, waitMs = 10_000): ChildProcess {
  const code = `
    import { appendFileSync } from 'node:fs';
    import { withLock } from ${JSON.stringify(lockModule)};
    const log = (text) => appendFileSync(${JSON.stringify(join(folder, 'log'))}, text + '\\n');
    await withLock(${JSON.stringify(lock)}, { waitMs: ${waitMs}, onWait: (pid) => log('waits ' + pid) }, async () => { ${work} });
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  return child;
}

const endOf = async (child: ChildProcess): Promise<unknown> => (await once(child, 'close'))[0];
const logLines = async (): Promise<string[]> =>
  (await readFile(join(folder, 'log'), 'utf8')).trimEnd().split('\n');

/** The id of a process that has ended. */
async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ['-e', '']);
  await once(child, 'close');
  return child.pid as number;
}

describe('lock between processes', () => {
  it('lets one at a time in, and leaves nothing behind', async () => {
    const work = `log('in'); await new Promise((resolve) => setTimeout(resolve, 20)); log('out');`;
    expect(await Promise.all(Array.from({ length: 6 }, () => endOf(holder(work))))).toEqual(
      Array(6).fill(0),
    );
    const turns = (await logLines()).filter((line) => !line.startsWith('waits'));
    expect(turns).toEqual(Array.from({ length: 12 }, (_, n) => (n % 2 === 0 ? 'in' : 'out')));
    expect(await readdir(folder)).toEqual(['log']);
  });

  it('breaks the lock of a process that died, once, among many waiters', async () => {
    await writeFile(lock, String(await deadPid()));
    const work = `log('in'); await new Promise((resolve) => setTimeout(resolve, 20)); log('out');`;
    expect(await Promise.all(Array.from({ length: 4 }, () => endOf(holder(work))))).toEqual(
      Array(4).fill(0),
    );
    const turns = (await logLines()).filter((line) => !line.startsWith('waits'));
    expect(turns).toEqual(Array.from({ length: 8 }, (_, n) => (n % 2 === 0 ? 'in' : 'out')));
    expect(await readdir(folder)).toEqual(['log']);
  });

  it('waits for a living owner, says for whom, and gives up with the remedy', async () => {
    await writeFile(lock, String(process.pid));
    const child = holder(`log('in');`, 300);
    let errors = '';
    child.stderr?.on('data', (chunk: Buffer) => (errors += chunk.toString()));
    expect(await endOf(child)).toBe(1);
    expect(errors).toContain(`delete ${lock}`);
    expect(await logLines()).toEqual([`waits ${process.pid}`]);
    expect(await readFile(lock, 'utf8')).toBe(String(process.pid));
  });

  it('is free again after the work threw, and after its owner was killed', async () => {
    expect(await endOf(holder(`throw new Error('no');`))).toBe(1);
    const killed = holder(
      `process.stdout.write('held'); await new Promise(() => setInterval(() => {}, 1000));`,
    );
    await once(killed.stdout as NonNullable<ChildProcess['stdout']>, 'data');
    killed.kill('SIGKILL');
    await endOf(killed);
    expect(await endOf(holder(`log('in');`))).toBe(0);
    expect((await logLines()).at(-1)).toBe('in');
  });
});
