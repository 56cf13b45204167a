/**
 * The processes of a stage: API, engines and workers as they are deployed, started anew whenever they end.
 *
 * Guards that a kill is one (by pid, of a process started here), that what ended by itself is known, and that
 * nothing is left running. A process that a fault has stopped (SIGSTOP) counts as running.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { startProcess, type SagaxProcess } from '../e2e/processes.ts';

export type Role = 'api' | 'engine' | 'worker';
type Env = { [name: string]: string };

const READY: Readonly<Record<Role, RegExp>> = {
  api: /the API listens/,
  engine: /the engine runs/,
  worker: /the workers run/,
};
const RESTART_PAUSE_MS = 300;
/** Lines of a process that ended by itself, kept for the report. */
const LAST_LINES = 15;

/** A place in the crew: one process at a time. */
export interface Member {
  readonly role: Role;
  /** 0, 1, 2… within the role. */
  readonly n: number;
  process: SagaxProcess;
  /** Whether its present process came up; settles when it has, or has ended. */
  up: Promise<boolean>;
  /** How many processes it has had; with `role` and `n` this names one. */
  life: number;
}

/** An end that no fault asked for. */
export interface UnexpectedEnd {
  /** A role, or another command of the command line. */
  role: string;
  code: number | string;
  /** Its last lines. */
  said: string;
}

export interface CrewOptions {
  env: Env;
  /** Settings of one process; for proxies and clocks. */
  envOf?: (role: Role, n: number) => Env;
}

export class Crew {
  readonly members: Member[] = [];
  /** Ends that were not asked for, exit code 69 left out: "a service is out of reach at start" is meant so. */
  readonly unexpected: UnexpectedEnd[] = [];
  readonly #options: CrewOptions;
  readonly #expected = new Set<SagaxProcess>();
  readonly #dismissed = new Set<Member>();
  readonly #watches = new Set<Promise<void>>();
  readonly #closing = new AbortController();

  constructor(options: CrewOptions) {
    this.#options = options;
  }

  /** Adds a member and waits until it is ready. */
  async hire(role: Role): Promise<Member> {
    const n = Math.max(-1, ...this.of(role).map((one) => one.n)) + 1;
    const member: Member = { role, n, ...this.#spawn(role, n), life: 1 };
    this.members.push(member);
    const watch = this.#watch(member).finally(() => this.#watches.delete(watch));
    this.#watches.add(watch);
    await this.ready(member);
    return member;
  }

  of(role: Role): Member[] {
    return this.members.filter((one) => one.role === role);
  }

  /** Resolves when the member's present process is up, or one that replaced it, or when it was dismissed. */
  async ready(member: Member): Promise<void> {
    while (!this.#closing.signal.aborted && !this.#dismissed.has(member)) {
      if (await member.up) return;
      await pause(RESTART_PAUSE_MS);
    }
  }

  /** Ends the member's process; another one takes its place at once. Resolves when it is gone. */
  async kill(member: Member, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const { process } = member;
    this.#expected.add(process);
    process.kill(signal);
    await process.ended;
  }

  stop(member: Member): void {
    member.process.kill('SIGSTOP');
  }

  continue(member: Member): void {
    member.process.kill('SIGCONT');
  }

  /** Takes a member out for good. */
  async dismiss(member: Member, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.#dismissed.add(member);
    await this.kill(member, signal);
    this.members.splice(this.members.indexOf(member), 1);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(
      this.members.map(async ({ process }) => {
        process.kill('SIGKILL');
        await process.ended;
      }),
    );
    await Promise.all(this.#watches);
  }

  #spawn(role: Role, n: number): Pick<Member, 'process' | 'up'> {
    const process = startProcess(role, { ...this.#options.env, ...this.#options.envOf?.(role, n) });
    // Looked for from the start: later the line may be gone from those that are kept.
    const up = process.line(READY[role]).then(
      () => true,
      () => false,
    );
    return { process, up };
  }

  async #watch(member: Member): Promise<void> {
    for (;;) {
      const { process } = member;
      const code = await process.ended;
      const isOver = (): boolean => this.#closing.signal.aborted || this.#dismissed.has(member);
      if (!isOver() && !this.#expected.has(process) && code !== 69) {
        const said = process.said().split('\n').slice(-LAST_LINES).join('\n');
        this.unexpected.push({ role: member.role, code, said });
      }
      if (!isOver()) await pause(RESTART_PAUSE_MS);
      if (isOver()) return;
      Object.assign(member, this.#spawn(member.role, member.n));
      member.life++;
    }
  }
}
