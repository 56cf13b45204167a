/**
 * A stage whose processes reach Postgres each through a proxy of its own.
 *
 * Guards that a fault meets the process that was chosen and no other; the checker reads past the proxies.
 */
import { PgProxy } from '../../support/pg-proxy.ts';
import type { OpenStage } from '../campaign.ts';
import type { Role } from '../crew.ts';
import type { Stage, StageOptions } from '../stage.ts';

export interface Wire {
  role: Role;
  /** 0, 1, 2… within the role, as the crew counts. */
  n: number;
  proxy: PgProxy;
}

export interface WiredStage {
  stage: Stage;
  wires: readonly Wire[];
}

/** Opens a stage with a proxy for each process. They close with the stage. */
export async function openWired(
  open: OpenStage,
  options: Parameters<OpenStage>[0],
): Promise<WiredStage> {
  const wires: Wire[] = [];
  const engines = options.engines ?? 2;
  const workers = options.workers ?? 2;
  const places: [Role, number][] = [['api', 0]];
  for (let n = 0; n < engines; n++) places.push(['engine', n]);
  for (let n = 0; n < workers; n++) places.push(['worker', n]);
  const wired: Omit<StageOptions, 'seed'> = {
    ...options,
    engines,
    workers,
    beforeProcesses: async ({ databaseUrl }) => {
      for (const [role, n] of places)
        wires.push({ role, n, proxy: await PgProxy.start(databaseUrl) });
      return async () => void (await Promise.all(wires.map(({ proxy }) => proxy.close())));
    },
    envOf: (role, n) => {
      const wire = wires.find((one) => one.role === role && one.n === n);
      if (wire === undefined) throw new Error(`There is no proxy for ${role} ${n}.`);
      return { DATABASE_URL: wire.proxy.url };
    },
  };
  return { stage: await open(wired), wires };
}

/** Breaks nothing any more. Lines that are dead stay so. */
export function mend(wires: readonly Wire[]): void {
  for (const { proxy } of wires) {
    proxy.plan = null;
    proxy.blackHole = false;
    proxy.delayMs = () => 0;
  }
}

/** Statements that a process has sent by now. */
export function statementsOf({ proxy }: Wire): number {
  let sum = 0;
  for (const { count } of proxy.statements.values()) sum += count;
  return sum;
}

/** Polls `look` until it is true. @throws Error after `limitMs`, in the words of `what` */
export async function until(
  what: string,
  limitMs: number,
  look: () => boolean | Promise<boolean>,
): Promise<void> {
  const giveUpAt = performance.now() + limitMs;
  while (!(await look())) {
    if (performance.now() > giveUpAt) throw new Error(`Not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
