/**
 * Whether memory grows while a system works on: one load for minutes, looked at all the while.
 *
 * Guards that growth is told apart from warming up and from the collector's saw-tooth: the first part of the run is left
 * out; what is told is the largest value of each eighth of the rest, and the line that fits all looks best.
 */
import type { Figures } from './durability.ts';
import { SagaxStack, type BusChoice } from './sagax-stack.ts';
import { spreadOf, trendOf } from './stats.ts';
import { rssByProcess, type ByProcess } from './stack.ts';

export interface SoakSizes {
  inFlight: number;
  soak_warmup_ms: number;
  soak_window_ms: number;
}

const LOOK_EVERY_MS = 1_000;
/** Parts of the window whose largest values are told. */
const PARTS = 8;

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
  const sizes = looks.map((look) => look[role] ?? NaN);
  const length = Math.max(1, Math.floor(sizes.length / PARTS));
  const largest = Array.from({ length: PARTS }, (_, part) => [
    `${role}_rss_part_${part + 1}_bytes`,
    Math.max(...sizes.slice(part * length, (part + 1) * length)),
  ]);
  return {
    ...(Object.fromEntries(largest) as Figures),
    [`${role}_rss_median_bytes`]: spreadOf(sizes).median,
    [`${role}_rss_trend_percent`]: (trendOf(sizes) * sizes.length * 100) / spreadOf(sizes).median,
  };
}
