/**
 * One role whose processes die at points, one after the other: each new life is given the next point.
 *
 * Guards that a death counts only when the process itself told that it was at its point, and that a point which
 * was not reached is known as such. A process that does not come to its point in time is drained (SIGTERM), and
 * so comes to the points of the drain.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startProcess, type SagaxProcess } from '../../e2e/processes.ts';
import type { Role, UnexpectedEnd } from '../crew.ts';

const PRELOAD = fileURLToPath(new URL('./preload.ts', import.meta.url));
const READY = /the (engine|workers) runs?|the API listens|the schema is up to date/;
/** A process that takes longer to come up hangs. */
const START_LIMIT_MS = 60_000;
/** A drain takes SAGAX_DRAIN_MS at most; one that takes longer hangs. */
const DRAIN_LIMIT_MS = 30_000;
/** Last words kept of a process that ended by itself. */
const SAID_CHARACTERS = 1_500;

export type VictimRole = Role | 'migrate';

/** A point and the passage of it to die at. */
export interface Target {
  point: string;
  passage: number;
  /** Reached only when the process is told to end. */
  inDrain: boolean;
}

export interface Shot {
  target: Target;
  outcome: 'died' | 'not reached';
  tookMs: number;
  /** What this life has passed on its way. */
  passages: Passages;
}

/** Points that one life has passed, with the last passage that was told (a power of two). */
export interface Passages {
  counts: ReadonlyMap<string, number>;
  /** Those that were passed after SIGTERM only, by a process that ran on. */
  drain: ReadonlySet<string>;
}

export interface GunOptions {
  role: VictimRole;
  /** Settings of the process, without those of the points. */
  env: { readonly [name: string]: string };
  planFile: string;
  /** For the logs of passages. */
  folder: string;
  /** How long a process that is up may take to come to its point. */
  limitMs: number;
  /** Called when a life has ended and before the next one begins. */
  whenDead: () => Promise<void>;
}

export class Gun {
  readonly #options: GunOptions;
  /** Processes started so far. */
  lives = 0;
  #running: SagaxProcess | null = null;
  /** Ends that were neither asked for nor a death at a point. */
  readonly unexpected: UnexpectedEnd[] = [];

  constructor(options: GunOptions) {
    this.#options = options;
  }

  /** Lets a process run for a while, drains it, and tells what it has passed. */
  async record(forMs: number): Promise<Passages> {
    const { life, log } = this.#begin(null);
    await life.line(READY);
    await pause(forMs);
    const running = readPassages(log);
    await this.#drain(life);
    this.#running = null;
    return passagesOf(running, readPassages(log));
  }

  async shoot(target: Target): Promise<Shot> {
    const startedAt = performance.now();
    const { life, log } = this.#begin(target);
    const ended = life.ended.then(() => 'ended' as const);
    const isUp = life.line(READY).then(
      () => 'up' as const,
      () => 'ended' as const,
    );
    let end = await withLimit(isUp, START_LIMIT_MS);
    if (end === 'up' && !target.inDrain) end = await withLimit(ended, this.#options.limitMs);
    const before = readPassages(log);
    const code = end === 'ended' ? await life.ended : await this.#drain(life);
    this.#running = null;
    const died = code === 'SIGKILL' && lastWord(log) === `${target.passage} ${target.point}`;
    // 69: a service was out of reach at the start, which is an end that is asked to be tried again.
    if (!died && code !== 0 && code !== 69) this.#blame(life, code, target.point);
    await this.#options.whenDead();
    const tookMs = Math.round(performance.now() - startedAt);
    const outcome = died ? 'died' : 'not reached';
    return { target, outcome, tookMs, passages: passagesOf(before, readPassages(log)) };
  }

  /** A process that is not to die, until the function that is returned is called: it drains then. */
  async steady(): Promise<() => Promise<void>> {
    const { life } = this.#begin(null);
    await life.line(READY);
    return async () => {
      const code = await this.#drain(life);
      if (code !== 0) this.#blame(life, code, 'its drain');
      this.#running = null;
    };
  }

  #blame(life: SagaxProcess, code: number | string, when: string): void {
    const said = life.said().slice(-SAID_CHARACTERS);
    this.unexpected.push({
      role: this.#options.role,
      code,
      said: `on its way to ${when}: ${said}`,
    });
  }

  /** Ends what still runs. */
  async close(): Promise<void> {
    this.#running?.kill('SIGKILL');
    await this.#running?.ended;
  }

  #begin(target: Target | null): { life: SagaxProcess; log: string } {
    const { role, env, folder, planFile } = this.#options;
    const log = join(folder, `${role}-${++this.lives}.log`);
    const life = startProcess(role, {
      ...env,
      NODE_OPTIONS: `--import=${PRELOAD}`,
      CRASH_PLAN: planFile,
      CRASH_LOG: log,
      ...(target === null ? {} : { CRASH_AT: `${target.point}@${target.passage}` }),
    });
    this.#running = life;
    return { life, log };
  }

  async #drain(life: SagaxProcess): Promise<number | string> {
    life.kill('SIGTERM');
    const code = await withLimit(life.ended, DRAIN_LIMIT_MS);
    if (code !== 'late') return code;
    life.kill('SIGKILL');
    await life.ended;
    return `no end ${DRAIN_LIMIT_MS} ms after SIGTERM`;
  }
}

function passagesOf(
  running: ReadonlyMap<string, number>,
  counts: ReadonlyMap<string, number>,
): Passages {
  return { counts, drain: new Set([...counts.keys()].filter((point) => !running.has(point))) };
}

async function withLimit<T>(work: Promise<T>, limitMs: number): Promise<T | 'late'> {
  const limit = new AbortController();
  const late = pause(limitMs, 'late' as const, { signal: limit.signal }).catch(
    () => 'late' as const,
  );
  try {
    return await Promise.race([work, late]);
  } finally {
    limit.abort();
  }
}

function linesOf(log: string): string[] {
  return existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n') : [];
}

function lastWord(log: string): string {
  return linesOf(log).at(-1) ?? '';
}

function readPassages(log: string): Map<string, number> {
  const passages = new Map<string, number>();
  for (const line of linesOf(log)) {
    const [, count, point] = /^(\d+) (.+)$/.exec(line) ?? [];
    if (count !== undefined && point !== undefined) passages.set(point, Number(count));
  }
  return passages;
}
