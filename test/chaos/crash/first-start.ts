/**
 * Crash points of the set-up and of upkeep: a process dies at each while it makes schema, shards, topics and partitions, or
 * drops a week that is over; the next start must succeed by itself.
 *
 * Guards that a first start which was broken off leaves nothing that a person must mend. Each death has databases and topics
 * of its own. Upkeep runs at each start of an engine, so that a week that is over is all it takes to come to its points.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineCampaign, type OpenStage, type Outcome } from '../campaign.ts';
import type { Evidence, Violation } from '../checker/evidence.ts';
import type { UnexpectedEnd } from '../crew.ts';
import { planIn } from './campaign.ts';
import { Gun, type Passages, type Target } from './gun.ts';
import { Grounds, scenes, type Scene } from './scenes.ts';
import { startAfter } from './successor.ts';

/** Set-up goes before readiness; what a life passes later is no part of it. */
const SET_UP_MS = 0;
/** Passed by an engine that runs, on whatever databases: other campaigns die there, with a load. */
const RUNNING =
  /^engine\/(runtime\/(?!engine)|postgres\/(bus-(groups|lane|poller)|event-log|spread-log))/;
/** Deaths at once: each waits for one process after another. */
const LANES = 2;
/** For upkeep, which begins when the engine runs. */
const UPKEEP_MS = 3_000;
/** A point of the set-up that was not reached before readiness comes within this time, or not at all. */
const LIMIT_MS = 8_000;
/** Passed by each start of an engine, of a set-up or not: the campaigns of engines die there. */
const UPKEEP_POINTS = /^engine\/postgres\/(partitions|spread|membership|index)/;
/** Each file of the schema is another passage of the same points, so one in the middle is died at as well. */
const MIGRATION = /\/migrate\.ts#(applyNext|migrate) /;
const MIDDLE_PASSAGE = 4;
/** Set-up is the same each time, but for races of two parts of it within one process. */
const LEAST_SHARE = 0.8;

interface FirstStartSize {
  /** Deaths of each scene that are drawn; null: all. */
  sample: number | null;
  scenes: readonly string[];
}

export const firstStart = defineCampaign<FirstStartSize>({
  name: 'crash-points-first-start',
  faults:
    'SIGKILL before and after each call that does I/O in the set-up of new databases and topics, and in upkeep',
  sizes: {
    ci: null,
    release: { sample: null, scenes: scenes.map(({ name }) => name) },
  },
  run: async (open, size, say) => {
    const folder = await mkdtemp(join(tmpdir(), 'sagax-crash-'));
    try {
      return await run(folder, open, size, say);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
});

async function run(
  folder: string,
  open: OpenStage,
  size: FirstStartSize,
  say: (text: string) => void,
): Promise<Outcome> {
  const { points, planFile } = await planIn(folder);
  const stage = await open({ bus: 'kafka', engines: 1, workers: 1 });
  // Its servers are what is wanted of the stage. That its own sagas end as well shows that they are in order.
  const own = await stage.settle({ say });
  for (const member of [...stage.crew.members]) await stage.crew.dismiss(member);
  const chosen = scenes.filter(({ name }) => size.scenes.includes(name));
  const rehearsal = new Rehearsal({ folder, planFile, grounds: new Grounds(stage.servers), say });
  for (const scene of chosen) {
    const targets = await rehearsal.targetsOf(scene);
    const drawn = size.sample === null ? [...targets] : draw(targets, size.sample, stage.random);
    say(`${scene.name}: ${targets.length} deaths to die, ${drawn.length} of them now`);
    const lane = async (): Promise<void> => {
      for (let target = drawn.pop(); target !== undefined; target = drawn.pop()) {
        await rehearsal.dieAt(scene, target, drawn.length);
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  }
  const { died, missed, violations, unexpected, evidence } = rehearsal;
  if (died.length < (died.length + missed.length) * LEAST_SHARE) {
    throw new Error(`Only ${died.length} points were died at, ${missed.length} were not reached.`);
  }
  for (const point of missed) say(`not reached again: ${point}`);
  const sagas = evidence.flatMap((one) => one.sagas);
  return {
    faults: died.length,
    settled: {
      violations: [...own.violations, ...violations],
      ends: endsOf([...own.evidence.sagas, ...sagas]),
      // Each death's evidence was checked by itself; here its sagas are counted.
      evidence: { ...own.evidence, sagas: [...own.evidence.sagas, ...sagas] },
      unexpected: [...own.unexpected, ...unexpected],
    },
    notes: {
      points_in_sources: points.length,
      points_passed: rehearsal.passed.size,
      points_died_at: new Set(died.map(({ point }) => point)).size,
      aims_not_reached: missed.length,
      scenes: chosen.length,
    },
  };
}

interface RehearsalOptions {
  folder: string;
  planFile: string;
  grounds: Grounds;
  say: (text: string) => void;
}

class Rehearsal {
  readonly passed = new Set<string>();
  readonly died: Target[] = [];
  readonly missed: string[] = [];
  readonly violations: Violation[] = [];
  readonly unexpected: UnexpectedEnd[] = [];
  readonly evidence: Evidence[] = [];
  readonly #options: RehearsalOptions;
  #guns = 0;

  constructor(options: RehearsalOptions) {
    this.#options = options;
  }

  /** What this scene passes and no earlier one has. */
  async targetsOf(scene: Scene): Promise<Target[]> {
    const { grounds } = this.#options;
    const ground = await grounds.make(scene);
    const gun = await this.#gun(scene, ground.env);
    const passages = await gun.record(scene.isUpkeep ? UPKEEP_MS : SET_UP_MS);
    await grounds.drop(ground);
    const isNew = (point: string): boolean => !this.passed.has(point);
    const points = pointsOf(scene, passages).filter(isNew);
    for (const point of points) this.passed.add(point);
    return points.flatMap((point) => {
      const first = { point, passage: 1, inDrain: false };
      const count = passages.counts.get(point) ?? 0;
      const hasMiddle = MIGRATION.test(point) && count >= MIDDLE_PASSAGE;
      return hasMiddle ? [first, { ...first, passage: MIDDLE_PASSAGE }] : [first];
    });
  }

  async dieAt(scene: Scene, target: Target, left: number): Promise<void> {
    const { grounds, say } = this.#options;
    const startedAt = performance.now();
    const ground = await grounds.make(scene);
    const gun = await this.#gun(scene, ground.env);
    const at = `${target.point}@${target.passage}`;
    const { outcome } = await gun.shoot(target);
    this.unexpected.push(...gun.unexpected);
    if (outcome === 'died') this.died.push(target);
    else this.missed.push(`${scene.name} ${at}`);
    const after = `${scene.name}, death at ${at}`;
    const { evidence, violations } = await startAfter(scene, ground, after);
    this.violations.push(...violations);
    if (evidence !== null) this.evidence.push(evidence);
    await grounds.drop(ground);
    const took_ms = Math.round(performance.now() - startedAt);
    const found = violations.length === 0 ? '' : `, ${violations.length} VIOLATIONS`;
    say(`${scene.name} ${outcome} ${at}, ${took_ms} ms, ${left} left${found}`);
  }

  /** One for each life: every one has settings of its own. */
  async #gun(scene: Scene, env: { readonly [name: string]: string }): Promise<Gun> {
    const folder = join(this.#options.folder, String(++this.#guns));
    await mkdir(folder);
    const { planFile } = this.#options;
    const whenDead = (): Promise<void> => Promise.resolve();
    return new Gun({ role: scene.role, env, planFile, folder, limitMs: LIMIT_MS, whenDead });
  }
}

function pointsOf(scene: Scene, { counts, drain }: Passages): string[] {
  const points = [...counts.keys()].filter((point) => !drain.has(point) && !RUNNING.test(point));
  return scene.isUpkeep ? points.filter((point) => UPKEEP_POINTS.test(point)) : points;
}

function draw(
  targets: readonly Target[],
  count: number,
  random: { between(from: number, to: number): number },
): Target[] {
  const left = [...targets];
  const drawn: Target[] = [];
  while (drawn.length < count && left.length > 0) {
    drawn.push(...left.splice(random.between(0, left.length - 1), 1));
  }
  return drawn;
}

function endsOf(sagas: readonly { status: string }[]): { [status: string]: number } {
  const ends: { [status: string]: number } = {};
  for (const { status } of sagas) ends[status] = (ends[status] ?? 0) + 1;
  return ends;
}
