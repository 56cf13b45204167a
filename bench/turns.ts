/**
 * Systems that take short turns while all of them are up: `--turns`, with `--against` for another checkout.
 *
 * Guards comparisons on machines whose speed drifts within minutes: what is compared is each turn with the turns
 * beside it, never a run with one of another hour. Who begins changes from turn to turn.
 */
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { UsageError, type Options } from './options.ts';
import type { SagaxStack } from './sagax-stack.ts';
import { brief, measure, warmUp, type Measured, type Scenario, type Sizes } from './scenarios.ts';
import { spreadOf } from './stats.ts';
import { Cleanup, type Stack } from './stack.ts';

/** A turn is short: some seconds, so that its neighbours meet the same machine. */
const TURN: Pick<Sizes, 'single' | 'open_s' | 'warmup_ms' | 'window_ms'> = {
  single: 60,
  open_s: 5,
  warmup_ms: 3_000,
  window_ms: 6_000,
};
const FIRST_WARMUP_MS = 12_000;

export interface Contender {
  name: string;
  start: () => Promise<Stack>;
}

export interface Turn {
  scenario: Scenario;
  turn: number;
  contender: string;
  measured: Pick<Measured, 'per_s' | 'p50_ms' | 'p99_ms' | 'cpu_ms'>;
}

/** @param folder of another checkout, with its dependencies installed */
export async function stackOf(folder: string): Promise<typeof SagaxStack.start> {
  const file = pathToFileURL(join(resolve(folder), 'bench', 'sagax-stack.ts')).href;
  try {
    const { SagaxStack: theirs } = (await import(file)) as { SagaxStack: typeof SagaxStack };
    return (options) => theirs.start(options);
  } catch (error) {
    throw new UsageError(
      `--against ${folder}: that is no checkout of Sagax with its dependencies (npm ci): ${(error as Error).message}`,
    );
  }
}

/** @throws UsageError when there is only one */
export async function runTurns(
  contenders: readonly Contender[],
  turns: number,
  options: Options,
  say: (text: string) => void,
): Promise<Turn[]> {
  if (contenders.length < 2) {
    throw new UsageError(
      '--turns needs somebody to take turns with: name two systems by --only, or another checkout by --against.',
    );
  }
  const done: Turn[] = [];
  const sizes = { ...options.sizes, ...TURN, first_warmup_ms: FIRST_WARMUP_MS };
  // Of this checkout, whichever a stack is of: a run that is broken off stops what stands here.
  const cleanup = new Cleanup();
  const up: { name: string; stack: Stack }[] = [];
  try {
    for (const { name, start } of contenders) {
      const stack = await start();
      cleanup.add(() => stack.stop());
      up.push({ name, stack });
    }
    for (const { name, stack } of up) {
      say(`warming up ${name}`);
      await warmUp(stack, sizes);
    }
    for (const scenario of options.scenarios) {
      for (let turn = 1; turn <= turns; turn++) {
        for (const { name, stack } of turn % 2 === 1 ? up : up.toReversed()) {
          const measured = await measure(stack, scenario, sizes);
          done.push({ scenario, turn, contender: name, measured });
          say(`${scenario}, turn ${turn} of ${turns}, ${name}: ${brief(measured)}`);
        }
      }
    }
  } finally {
    await cleanup.run();
  }
  return done;
}

type Figure = keyof Turn['measured'];
const FIGURES: readonly [Figure, string, number][] = [
  ['per_s', 'sagas/s', 0],
  ['p50_ms', 'p50 ms', 1],
  ['p99_ms', 'p99 ms', 1],
  ['cpu_ms', 'CPU ms a saga: own', 2],
];

/** Medians over the turns; in brackets, the median of how many times the first contender's figure of the same turn it is. */
export function turnTable(turns: readonly Turn[]): string {
  const parts: string[] = [];
  for (const [scenario, of] of Map.groupBy(turns, (one) => one.scenario)) {
    const first = of[0]?.contender ?? '';
    const names = [...new Set(of.map(({ contender }) => contender))];
    const valuesOf = (name: string, figure: Figure): Map<number, number> =>
      new Map(
        of
          .filter(({ contender }) => contender === name)
          .map(({ turn, measured }) => [turn, measured[figure] ?? NaN]),
      );
    const rows = names.map((name) => {
      const cells = FIGURES.map(([figure, , digits]) => {
        const own = valuesOf(name, figure);
        const beside = valuesOf(first, figure);
        const times = [...own].map(([turn, value]) => value / (beside.get(turn) ?? NaN));
        const { median } = spreadOf([...own.values()]);
        const ratio = name === first ? '' : ` (${spreadOf(times).median.toFixed(2)} ×)`;
        return `${median.toFixed(digits)}${ratio}`;
      });
      return `| ${[name, ...cells].join(' | ')} |`;
    });
    const count = new Set(of.map(({ turn }) => turn)).size;
    parts.push(
      [
        `### ${scenario}, ${count} turns`,
        '',
        `| | ${FIGURES.map(([, title]) => title).join(' | ')} |`,
        `|---|${FIGURES.map(() => '---').join('|')}|`,
        ...rows,
      ].join('\n'),
    );
  }
  return parts.join('\n\n');
}
