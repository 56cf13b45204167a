/**
 * Whether memory grows while a system works on: one load for minutes, looked at all the while.
 *
 * Guards that growth is told apart from warming up: the first part of the run is left out, and the first minute after
 * it is compared to the last one, each by its largest value, so that the collector's saw-tooth does not decide.
 */
import type { Figures } from './durability.ts';
import { SagaxStack, type BusChoice } from './sagax-stack.ts';
import { rssByProcess, type ByProcess } from './stack.ts';

export interface SoakSizes {
  inFlight: number;
  soak_warmup_ms: number;
  soak_window_ms: number;
}

const LOOK_EVERY_MS = 1_000;
/** Part of the window that is compared, at either end. */
const EDGE = 1 / 8;

export async function soak(bus: BusChoice, sizes: SoakSizes): Promise<Figures> {
  const { inFlight, soak_warmup_ms: warmup_ms, soak_window_ms: window_ms } = sizes;
  const stack = await SagaxStack.start({ bus });
  const looks: ByProcess[] = [];
  let timer: NodeJS.Timeout | undefined;
  try {
    const load = { kind: 'closed', work: 'order', inFlight, warmup_ms, window_ms } as const;
    const { ended, elapsed_ms } = await stack.driver.load(load, (edge) => {
      if (edge === 'begin')
        timer = setInterval(() => looks.push(rssByProcess(stack)), LOOK_EVERY_MS);
      else clearInterval(timer);
    });
    return {
      minutes: (warmup_ms + window_ms) / 60_000,
      sagas_per_s: (ended * 1_000) / elapsed_ms,
      ...growthOf('engine', looks),
      ...growthOf('worker', looks),
    };
  } finally {
    clearInterval(timer);
    await stack.stop();
  }
}

function growthOf(role: string, looks: readonly ByProcess[]): Figures {
  const edge = Math.max(1, Math.floor(looks.length * EDGE));
  const largest = (part: readonly ByProcess[]): number =>
    Math.max(...part.map((look) => look[role] ?? NaN));
  const first = largest(looks.slice(0, edge));
  const last = largest(looks.slice(-edge));
  return {
    [`${role}_rss_first_bytes`]: first,
    [`${role}_rss_last_bytes`]: last,
    [`${role}_rss_growth_percent`]: ((last - first) * 100) / first,
  };
}
