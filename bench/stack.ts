/** What the scenarios need of a running system, whichever it is. */
import { cpus } from 'node:os';
import type { Driver } from './driver-client.ts';
import { cpuMs, rssBytes, treeCpuMs, type BenchProcess } from './processes.ts';

/** Figures by process, e.g. `engine`, `worker`, `postgres`. */
export interface ByProcess {
  [role: string]: number;
}

export interface Stack {
  readonly driver: Driver;
  /** Processes of the system itself, participants included; what each saga's CPU time is counted over. */
  readonly own: readonly BenchProcess[];
  /** Servers that it keeps its data in: role → pid. */
  readonly stores: { readonly [role: string]: number };
  /** Bytes that it has stored, by what they are. */
  stored(): Promise<ByProcess>;
  stop(): Promise<void>;
}

/** CPU time used so far by each process, the driver included, ms. Empty where the kernel doesn't tell. */
export function cpuByProcess(stack: Stack): ByProcess {
  const cpu: ByProcess = {};
  for (const { role, pid } of stack.own) add(cpu, role, cpuMs(pid));
  for (const [role, pid] of Object.entries(stack.stores)) add(cpu, role, treeCpuMs(pid));
  add(cpu, 'driver', cpuMs(stack.driver.pid));
  return cpu;
}

/** CPU time that the whole machine has used so far, ms. */
export function machineCpuMs(): number {
  return cpus().reduce(
    (sum, { times: { user, nice, sys, irq } }) => sum + user + nice + sys + irq,
    0,
  );
}

export function rssByProcess(stack: Stack): ByProcess {
  const rss: ByProcess = {};
  for (const { role, pid } of stack.own) add(rss, role, rssBytes(pid));
  return rss;
}

function add(sums: ByProcess, role: string, value: number | null): void {
  if (value !== null) sums[role] = (sums[role] ?? 0) + value;
}

export function difference(after: ByProcess, before: ByProcess): ByProcess {
  return Object.fromEntries(
    Object.entries(after).map(([role, value]) => [role, value - (before[role] ?? 0)]),
  );
}

/** Runs what has been opened backwards; a failure does not keep the rest from being closed. */
export class Cleanup {
  /** Those that have something open; for a run that is broken off. */
  static readonly open = new Set<Cleanup>();
  readonly #steps: (() => Promise<unknown>)[] = [];
  #running: Promise<void> | null = null;
  add(step: () => Promise<unknown>): void {
    this.#steps.push(step);
    Cleanup.open.add(this);
    // What is opened although all is being closed is closed as well.
    if (this.#running !== null) this.#running = this.#running.then(() => this.#runAll());
  }
  /** Whoever calls it again waits for the same. */
  run(): Promise<void> {
    this.#running ??= this.#runAll();
    return this.#running;
  }
  async #runAll(): Promise<void> {
    const failures: Error[] = [];
    for (const step of this.#steps.splice(0).reverse()) {
      try {
        await step();
      } catch (error) {
        failures.push(error as Error);
      }
    }
    Cleanup.open.delete(this);
    if (failures[0] !== undefined) throw failures[0];
  }
}
