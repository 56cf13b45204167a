/**
 * Processes of the systems under test: started, waited for, measured by /proc, ended.
 *
 * Guards that a run leaves nothing behind, however it ends, and that CPU and memory are those of the
 * process itself, taken from the kernel. Where there is no /proc, both read null.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

/** Lines kept of what a process says, for the message when it fails. */
const KEPT_LINES = 60;
const START_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 30_000;
/** Linux counts CPU time in hundredths of a second (USER_HZ), on every architecture that Node runs on. */
const TICK_MS = 10;
const HAS_PROC = existsSync('/proc/self/stat');

const running = new Set<ChildProcess>();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

export interface BenchProcess {
  readonly role: string;
  readonly pid: number;
  /** The match of the line that said it was ready. */
  readonly ready: RegExpExecArray;
  /** SIGTERM, and SIGKILL when it takes too long. */
  stop(): Promise<void>;
  kill(): Promise<void>;
}

export interface StartOptions {
  role: string;
  command: string;
  args: readonly string[];
  env: { readonly [name: string]: string };
  cwd?: string;
  ready: RegExp;
}

/** @throws Error with its last words when the process ends, or isn't ready in time */
export async function startProcess(options: StartOptions): Promise<BenchProcess> {
  const { role, command, args, env, cwd, ready } = options;
  const child = spawn(command, args, {
    ...(cwd === undefined ? {} : { cwd }),
    env: { PATH: process.env['PATH'] ?? '', HOME: process.env['HOME'] ?? '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  const ended = once(child, 'exit').then(() => running.delete(child));
  const said: string[] = [];
  const match = await new Promise<RegExpExecArray>((resolve, reject) => {
    const fail = (why: string): void =>
      reject(new Error(`${role} ${why}. It said:\n${said.join('\n')}`));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`was not ready within ${START_LIMIT_MS} ms`);
    }, START_LIMIT_MS);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        said.push(line);
        if (said.length > KEPT_LINES) said.shift();
        const found = ready.exec(line);
        if (found === null) return;
        clearTimeout(timer);
        resolve(found);
      });
    }
    child.once('error', (error) => fail(`could not be started: ${error.message}`));
    void ended.then(() => {
      clearTimeout(timer);
      fail(`ended (${child.exitCode ?? child.signalCode})`);
    });
  });
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS);
    await ended;
    clearTimeout(timer);
  };
  return {
    role,
    pid: child.pid ?? -1,
    ready: match,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
  };
}

/** CPU time that a process has used, user and system, ms. With `children`, those it has waited for as well. */
export function cpuMs(pid: number, children = false): number | null {
  const fields = statFields(pid);
  if (fields === null) return null;
  // utime and stime are fields 14 and 15 of proc(5), cutime and cstime 16 and 17; `fields` begins at the third.
  const last = children ? 15 : 13;
  return fields.slice(11, last).reduce((sum, ticks) => sum + Number(ticks) * TICK_MS, 0);
}

/** CPU time of a server of many processes: itself, the children it has, and those that ended, ms. */
export function treeCpuMs(pid: number): number | null {
  const own = cpuMs(pid, true);
  if (own === null) return null;
  return childrenOf(pid).reduce((sum, child) => sum + (cpuMs(child) ?? 0), own);
}

/** Resident memory, bytes. */
export function rssBytes(pid: number): number | null {
  if (!HAS_PROC) return null;
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return match === null ? null : Number(match[1]) * 1024;
}

function statFields(pid: number): string[] | null {
  if (!HAS_PROC) return null;
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the name in parentheses, which may hold anything.
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return null;
  }
}

function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((each) => statFields(each)?.[1] === String(pid));
}
