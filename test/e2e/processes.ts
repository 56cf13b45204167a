/**
 * Sagax as it is deployed: processes of their own, started, killed and drained by tests.
 *
 * Guards that a test leaves no process behind, and shows what a process said when it fails.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
/** Lines kept of what a process says, for messages of failed tests. */
const KEPT_LINES = 200;

export interface SagaxProcess {
  readonly role: string;
  readonly pid: number;
  /** Resolves with the first line said, now or later, that the pattern matches. @throws when the process ends before */
  line(pattern: RegExp): Promise<RegExpExecArray>;
  kill(signal: NodeJS.Signals): void;
  /** Resolves with the exit code, or the signal's name. */
  readonly ended: Promise<number | string>;
  /** The last lines it said. */
  said(): string;
}

export function startProcess(
  role: string,
  env: { [name: string]: string },
  args: string[] = [],
): SagaxProcess {
  const child = spawn(process.execPath, [MAIN, role, ...args], {
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: process.env['HOME'] ?? '',
      SAGAX_AUTH: 'off',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines: string[] = [];
  const listeners = new Set<(line: string) => void>();
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      lines.push(line);
      if (lines.length > KEPT_LINES) lines.shift();
      for (const listener of listeners) listener(line);
    });
  }
  const ended = exitOf(child);
  return {
    role,
    pid: child.pid ?? -1,
    line: (pattern) => {
      for (const line of lines) {
        const match = pattern.exec(line);
        if (match !== null) return Promise.resolve(match);
      }
      return new Promise((resolve, reject) => {
        const listener = (line: string): void => {
          const match = pattern.exec(line);
          if (match === null) return;
          listeners.delete(listener);
          resolve(match);
        };
        listeners.add(listener);
        void ended.then((code) =>
          reject(new Error(`${role} ended (${code}) without ${pattern}:\n${lines.join('\n')}`)),
        );
      });
    },
    kill: (signal) => void child.kill(signal),
    ended,
    said: () => lines.join('\n'),
  };
}

async function exitOf(child: ChildProcess): Promise<number | string> {
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? signal ?? 'unknown';
}

/** Polls `look` until it gives something; for what only another process knows. @throws after `limitMs` */
export async function eventually<T>(
  what: string,
  limitMs: number,
  look: () => Promise<T | null>,
): Promise<T> {
  const giveUpAt = performance.now() + limitMs;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (performance.now() > giveUpAt)
      throw new Error(`${what} did not come true within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
