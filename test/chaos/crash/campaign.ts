/**
 * Every crash point: a process dies at each point that a run passes, at its first passage and at a later one, under
 * each shape of saga, and is started anew; then every saga must have ended right and the checker finds nothing.
 *
 * Guards that no await of engine, relay, timers or worker is a place at which dying costs more than time. Points
 * come out of the sources (points.ts), so a new await is in the next run by itself; those that no run has passed
 * are named, not dropped. One engine, one worker and one API process run; one of them is the victim, the others are steady.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineCampaign, type Campaign, type OpenStage, type Outcome } from '../campaign.ts';
import {
  streamsOf,
  type CheckOptions,
  type Evidence,
  type Violation,
} from '../checker/evidence.ts';
import type { Settled, Stage, StageOptions } from '../stage.ts';
import { whyNot } from './elsewhere.ts';
import type { Role } from '../crew.ts';
import { makePlan } from './points.ts';
import { Range, type CrashSize } from './range.ts';
import { rightEnds, shapes, type Shape } from './shapes.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');
/** Of the points aimed at, those that must have been died at: points of recovery need luck, the others don't. */
const LEAST_SHARE = 0.6;

/** What goes on beside the deaths, until it is stopped. */
export interface Beside {
  stop(): Promise<void>;
  /** What it found, given what the run has left behind. */
  judge(evidence: Evidence): Violation[];
  readonly notes: { readonly [name: string]: number };
  /** Further settings of the victims. */
  readonly env?: { readonly [name: string]: string };
}

export interface CrashCampaign {
  name: string;
  /** What dies where, after "SIGKILL before and after each call that does I/O". */
  where: string;
  bus: 'kafka' | 'postgres';
  victims: readonly Role[];
  /** Points that are died at. Default: all. */
  aim?: RegExp;
  stage?: Partial<StageOptions>;
  check?: CheckOptions;
  beside?: readonly ((stage: Stage) => Promise<Beside>)[];
  ci: Partial<CrashSize> | null;
  release: Partial<CrashSize>;
}

const CI: CrashSize = {
  shapes: ['completes'],
  sample: 8,
  later: false,
  perS: 3,
  recordMs: 4_000,
  limitMs: 10_000,
};
const RELEASE: CrashSize = {
  shapes: shapes.map((one) => one.name),
  sample: null,
  later: true,
  perS: 3,
  recordMs: 12_000,
  limitMs: 12_000,
};

export function defineCrashes(options: CrashCampaign): Campaign<CrashSize> {
  return defineCampaign<CrashSize>({
    name: options.name,
    faults: `SIGKILL before and after each call that does I/O ${options.where}`,
    sizes: {
      ci: options.ci === null ? null : { ...CI, ...options.ci },
      release: { ...RELEASE, ...options.release },
    },
    run: async (open, size, say) => {
      const folder = await mkdtemp(join(tmpdir(), 'sagax-crash-'));
      try {
        return await run(options, folder, open, size, say);
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    },
  });
}

/** @returns the points of the sources, and the file with their plan for processes */
export async function planIn(folder: string): Promise<{ points: string[]; planFile: string }> {
  const { plan, points } = makePlan(ROOT);
  const planFile = join(folder, 'plan.json');
  await writeFile(planFile, JSON.stringify(plan));
  return { points, planFile };
}

async function run(
  options: CrashCampaign,
  folder: string,
  open: OpenStage,
  size: CrashSize,
  say: (text: string) => void,
): Promise<Outcome> {
  const { victims, aim = /./ } = options;
  const { points, planFile } = await planIn(folder);
  const chosen = shapes.filter(({ name }) => size.shapes.includes(name));
  const [first] = chosen;
  if (first === undefined) throw new Error('The size names no shape.');
  let shape: Shape = first;
  const stage = await open({
    bus: options.bus,
    engines: 1,
    workers: 1,
    perS: size.perS,
    draw: (n) => shape.draw(n),
    ...options.stage,
    env: { SAGAX_DRAIN_MS: '5000', ...options.stage?.env },
  });
  const beside: Beside[] = [];
  for (const begin of options.beside ?? []) beside.push(await begin(stage));
  // They have made topics and tables; from here on the campaign's own processes take their place.
  for (const role of victims) for (const one of stage.crew.of(role)) await stage.crew.dismiss(one);
  const env = Object.assign({ ...stage.env }, ...beside.map((one) => one.env)) as typeof stage.env;
  const range = new Range(stage, { victims, aim, env, folder, planFile, size, say });
  try {
    for (const next of chosen) {
      shape = next;
      await range.shootAll(shape);
    }
  } finally {
    await range.close();
    stage.nameApi(null);
    await Promise.all(victims.map((role) => stage.crew.hire(role)));
    for (const one of beside) await one.stop();
  }
  const settled = await stage.settle({ ...options.check, say });
  for (const one of beside) settled.violations.push(...one.judge(settled.evidence));
  const { events } = settled.evidence;
  for (let place = 0; place < stage.servers.logUrls.length; place++) {
    const isUsed = events.some(({ shard }) => shard % stage.servers.logUrls.length === place);
    if (!isUsed) throw new Error(`No saga was run in log database ${place + 1}.`);
  }
  const outcome = report(
    range,
    points.filter((point) => aim.test(point)),
    settled,
    say,
  );
  const notes = Object.assign(
    { ...outcome.notes },
    ...beside.map((one) => one.notes),
  ) as Outcome['notes'];
  return { ...outcome, ...(notes === undefined ? {} : { notes }) };
}

function report(
  range: Range,
  points: readonly string[],
  settled: Settled,
  say: (text: string) => void,
): Outcome {
  const died = range.shots.filter(({ shot }) => shot.outcome === 'died');
  const missed = range.shots.filter(({ shot }) => shot.outcome !== 'died');
  if (died.length < range.shots.length * LEAST_SHARE) {
    throw new Error(`Only ${died.length} of ${range.shots.length} points were died at.`);
  }
  const neverPassed = points.filter((point) => !range.passed.has(point));
  for (const { role, shape, shot } of missed) {
    say(`not reached again: ${shape} ${role} ${shot.target.point}@${shot.target.passage}`);
  }
  for (const point of neverPassed) say(`no run passes ${point}: ${whyNot(point)}`);
  const { violations, timedOut } = judgeEnds(settled.evidence);
  return {
    faults: died.length,
    settled: {
      ...settled,
      violations: [...settled.violations, ...violations],
      unexpected: [...settled.unexpected, ...range.unexpected],
    },
    notes: {
      points_in_sources: points.length,
      points_passed: points.filter((point) => range.passed.has(point)).length,
      points_died_at: new Set(died.map(({ shot }) => shot.target.point)).size,
      points_no_run_passes: neverPassed.length,
      aims_not_reached: missed.length,
      sagas_with_a_timeout: timedOut,
    },
  };
}

/** Each saga's end is known beforehand, unless a step ran out of its time while processes were dying. */
export function judgeEnds(evidence: Evidence): { violations: Violation[]; timedOut: number } {
  const violations: Violation[] = [];
  const streams = streamsOf(evidence);
  let timedOut = 0;
  for (const { sagaId, status } of evidence.sagas) {
    const events = streams.get(sagaId) ?? [];
    if (events.some(({ type }) => type === 'StepGivenUp')) {
      timedOut++;
      continue;
    }
    const input = events[0]?.event['input'] as Parameters<typeof rightEnds>[0];
    const right = rightEnds(input);
    if (!right.includes(status)) {
      const what = `ended ${status} where ${right.join(' or ')} is right, though no step had run out of time`;
      violations.push({ invariant: 'I12', sagaId, what });
    }
  }
  return { violations, timedOut };
}
