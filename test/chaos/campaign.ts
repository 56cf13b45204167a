/**
 * What a campaign is: faults of one kind, at a size, on a stage, ending in the judgement of the checker.
 *
 * Guards that each one is run, timed and reported alike, and that a campaign that injected nothing fails.
 */
import type { Violation } from './checker/evidence.ts';
import { Stage, type Settled, type StageOptions } from './stage.ts';

export type Size = 'ci' | 'release';
type Say = (text: string) => void;

export interface Outcome {
  /** Faults that were really injected. */
  faults: number;
  settled: Settled;
  /** What else is worth a word in the report, with units in the names. */
  notes?: { readonly [name: string]: number | string };
}

export interface Campaign<S = any> {
  readonly name: string;
  /** What is done to the system, in a few words. */
  readonly faults: string;
  /** Null: left out of CI, where another campaign stands for it. */
  readonly sizes: { readonly ci: S | null; readonly release: S };
  run(open: OpenStage, size: S, say: Say): Promise<Outcome>;
}

/** Opens the stage, with the run's seed; it is closed when the campaign ends, however it ends. */
export type OpenStage = (options: Omit<StageOptions, 'seed'>) => Promise<Stage>;

export interface ResultRow {
  campaign: string;
  size: Size;
  /** What was done, and how often. */
  what: string;
  faults: number;
  sagas: number;
  ends: { [status: string]: number };
  violations: Violation[];
  /** Why there is no result, when there is none. */
  error: string | null;
  /** Processes that ended by themselves though nobody had ended them. */
  unexpected_ends: string[];
  notes: { readonly [name: string]: number | string };
  duration_s: number;
  seed: number;
  command: string;
}

/** Gives the size its type in `run`. */
export function defineCampaign<S>(campaign: Campaign<S>): Campaign<S> {
  return campaign;
}

const opened = new Set<Stage>();

/** Takes down whatever is up; for a run that is broken off. */
export async function closeStages(): Promise<void> {
  await Promise.all([...opened].map((stage) => stage.close()));
}

/** Runs one campaign. Never throws: what goes wrong is in the row. */
export async function runCampaign(
  campaign: Campaign,
  size: Size,
  seed: number,
  say: Say,
): Promise<ResultRow> {
  const startedAt = performance.now();
  const open: OpenStage = async (options) => {
    const stage = await Stage.open({ ...options, seed });
    opened.add(stage);
    return stage;
  };
  let outcome: Outcome | null = null;
  let error: string | null = null;
  try {
    const chosen = campaign.sizes[size];
    if (chosen === null) throw new Error(`The campaign ${campaign.name} has no size ${size}.`);
    outcome = await campaign.run(open, chosen, say);
    if (outcome.faults === 0) error = 'no fault was injected';
    else if (outcome.settled.evidence.sagas.length === 0) error = 'no saga was run';
  } catch (thrown) {
    error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
  } finally {
    await closeStages();
    opened.clear();
  }
  return {
    campaign: campaign.name,
    size,
    what: campaign.faults,
    faults: outcome?.faults ?? 0,
    sagas: outcome?.settled.evidence.sagas.length ?? 0,
    ends: outcome?.settled.ends ?? {},
    violations: outcome?.settled.violations ?? [],
    error,
    unexpected_ends: (outcome?.settled.unexpected ?? []).map(
      ({ role, code, said }) => `${role} ended (${code}): ${said}`,
    ),
    notes: outcome?.notes ?? {},
    duration_s: Math.round((performance.now() - startedAt) / 100) / 10,
    seed,
    command: `npm run chaos -- --size ${size} --only ${campaign.name} --seed ${seed}`,
  };
}

export function isClean(row: ResultRow): boolean {
  return row.error === null && row.violations.length === 0 && row.unexpected_ends.length === 0;
}
