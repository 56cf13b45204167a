/** What `npm run bench` can be asked, and what it does by default. */
import { parseArgs } from 'node:util';
import { DURABILITY, LONG, type DurabilityScenario, type DurabilitySizes } from './durability.ts';
import { SCENARIOS, type Scenario, type Sizes } from './scenarios.ts';

export const SYSTEMS = [
  'sagax-kafka',
  'sagax-kafka-fsync',
  'sagax-postgres',
  'restate-http',
  'restate-inline',
  'dbos-http',
  'dbos-inline',
] as const;
export type System = (typeof SYSTEMS)[number];

const HELP = `Usage: npm run bench -- [options]

  --quick          small sizes, one round: shows that it works; its figures mean little
  --only a,b,…     only these systems or scenarios
                   systems: ${SYSTEMS.join(', ')}
                   scenarios: ${[...SCENARIOS, ...DURABILITY].join(', ')}
                   soak works for ten minutes, growth fills a log with a million sagas: they run only
                   when they are named, and once
  --rounds N       rounds, each on new servers, systems one after another in each (default 3)
  --in-flight N    sagas in flight in the closed loop (default 256)
  --shards N       shards of Sagax (default: its own, 16)
  --json file      write every round's figures
  --docs           put the tables into docs/BENCHMARKS.md and docs/SCALING.md
  --scaling        put the costs of a saga, and what they come to, into docs/SCALING.md alone
  --from a,b,…     don't run: show the tables of such JSON files together (with --docs: write them)
  --turns N        systems are up together and take N short turns at each load: for latencies and small differences,
                   on machines whose speed drifts; prints each one's ratio to the first, by turn
  --against dir    with --turns: the same Sagax systems of another checkout too, with its dependencies installed
  --profile        CPU profiles of engine and worker, and the statements that took longest
`;

export interface Options {
  systems: readonly System[];
  scenarios: readonly Scenario[];
  durability: readonly DurabilityScenario[];
  rounds: number;
  shards: number | null;
  sizes: Sizes & DurabilitySizes;
  json: string | null;
  docs: boolean;
  scaling: boolean;
  from: readonly string[] | null;
  profile: boolean;
  quick: boolean;
  turns: number | null;
  /** Folder of another checkout. */
  against: string | null;
}

const FULL: Sizes & DurabilitySizes = {
  inFlight: 256,
  first_warmup_ms: 30_000,
  warmup_ms: 5_000,
  window_ms: 10_000,
  single: 300,
  open_s: 15,
  timers: 100_000,
  timers_spread_ms: 60_000,
  recovering: 10_000,
  sleeping: 100_000,
  idle_s: 30,
  rest_s: 10,
  soak_warmup_ms: 120_000,
  soak_window_ms: 480_000,
  growth_small: 10_000,
  growth_large: 1_000_000,
  growth_rounds: 5,
};
const QUICK: Sizes & DurabilitySizes = {
  inFlight: 64,
  first_warmup_ms: 2_000,
  warmup_ms: 1_500,
  window_ms: 3_000,
  single: 30,
  open_s: 3,
  timers: 2_000,
  timers_spread_ms: 4_000,
  recovering: 200,
  sleeping: 2_000,
  idle_s: 5,
  rest_s: 2,
  soak_warmup_ms: 4_000,
  soak_window_ms: 8_000,
  growth_small: 1_000,
  growth_large: 20_000,
  growth_rounds: 2,
};

export class UsageError extends Error {}

/** @returns null when only help was asked for. @throws UsageError */
export function parseOptions(args: string[]): Options | null {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      only: { type: 'string', default: '' },
      rounds: { type: 'string' },
      'in-flight': { type: 'string' },
      shards: { type: 'string' },
      json: { type: 'string' },
      docs: { type: 'boolean', default: false },
      scaling: { type: 'boolean', default: false },
      from: { type: 'string' },
      profile: { type: 'boolean', default: false },
      turns: { type: 'string' },
      against: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return null;
  }
  const only = values.only.split(',').filter((name) => name !== '');
  const known: readonly string[] = [...SYSTEMS, ...SCENARIOS, ...DURABILITY];
  const unknown = only.filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new UsageError(`There is no ${unknown.join(', ')}; there are ${known.join(', ')}.`);
  }
  const isSystem = (name: string): boolean => (SYSTEMS as readonly string[]).includes(name);
  const anyScenario = only.some((name) => !isSystem(name));
  const sizes = values.quick ? QUICK : FULL;
  const turns = whole('--turns', values.turns);
  const against = values.against ?? null;
  if (against !== null && turns === null) {
    throw new UsageError('--against compares by turns: say how many, --turns 11.');
  }
  if (turns !== null && only.some((name) => (DURABILITY as readonly string[]).includes(name))) {
    throw new UsageError(`--turns is for loads: ${SCENARIOS.join(', ')}.`);
  }
  return {
    systems: chosen(SYSTEMS, only, only.some(isSystem)),
    scenarios: chosen(SCENARIOS, only, anyScenario),
    durability: chosen(DURABILITY, only, anyScenario).filter(
      (name) => !LONG.has(name) || only.includes(name),
    ),
    rounds: whole('--rounds', values.rounds) ?? (values.quick ? 1 : 3),
    shards: whole('--shards', values.shards),
    sizes: { ...sizes, inFlight: whole('--in-flight', values['in-flight']) ?? sizes.inFlight },
    json: values.json ?? null,
    docs: values.docs,
    scaling: values.scaling,
    from: values.from?.split(',') ?? null,
    profile: values.profile,
    quick: values.quick,
    turns,
    against,
  };
}

/** Those of a kind that were named, or all of it when none of its kind was. */
function chosen<T extends string>(all: readonly T[], only: readonly string[], any: boolean): T[] {
  return any ? all.filter((name) => only.includes(name)) : [...all];
}

function whole(name: string, text: string | undefined): number | null {
  if (text === undefined) return null;
  if (!/^[1-9]\d{0,4}$/.test(text))
    throw new UsageError(`${name} ${text}: give a number from 1 to 99999.`);
  return Number(text);
}
