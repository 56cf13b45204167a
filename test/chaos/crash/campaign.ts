/**
 * Every crash point: a process dies at each point that a run passes, at its first passage and at a later one, under
 * each shape of saga, and is started anew; then every saga must have ended right and the checker finds nothing.
 *
 * Guards that no await of engine, relay, timers or worker is a place at which dying costs more than time. Points
 * come out of the sources (points.ts), so a new await is in the next run by itself; those that no run has passed
 * are named, not dropped. One engine and one worker process run; one of them is the victim, the other is steady.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { defineCampaign, type OpenStage, type Outcome, type Size } from '../campaign.ts';
import { streamsOf, type Evidence, type Violation } from '../checker/evidence.ts';
import type { UnexpectedEnd } from '../crew.ts';
import type { Dice } from '../../support/dice.ts';
import type { Settled, Stage } from '../stage.ts';
import { whyNot } from './elsewhere.ts';
import { Groups } from './groups.ts';
import { Gun, type Passages, type Shot, type Target, type VictimRole } from './gun.ts';
import { makePlan } from './points.ts';
import { rightEnds, shapes, type Shape } from './shapes.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');
const ROLES: readonly VictimRole[] = ['engine', 'worker'];
/** Those of the order; each is a consumer group that must be joined anew after each death. */
const SERVICES = ['inventory', 'payments', 'shipping', 'notifications'];
/** A later passage is one of the 2nd to the 8th: soon reached, and no longer the first of anything. */
const LATEST_PASSAGE = 8;
/** A point that comes only after a death of a certain kind needs luck. */
const MAX_TRIES = 2;
/** Half of what the first step of an order has until it is given up. */
const OLD_MS = 15_000;
const CATCH_UP_LIMIT_MS = 20_000;
const LOOK_EVERY_MS = 100;
/** Of the points aimed at, those that must have been died at: points of recovery need luck, the others don't. */
const LEAST_SHARE = 0.6;

interface CrashSize {
  shapes: readonly string[];
  /** Points of each role that are drawn; null: all. */
  sample: number | null;
  /** Whether each point is also died at in a later passage. */
  later: boolean;
  perS: number;
  /** How long a run is looked at to learn which points it passes. */
  recordMs: number;
  /** How long a life may take to come to its point. */
  limitMs: number;
}

function onBus(
  name: string,
  bus: 'kafka' | 'postgres',
  changes: { [size in Size]?: Partial<CrashSize> },
) {
  const ci = { shapes: ['completes'], sample: 8, later: false, perS: 3, recordMs: 4_000 };
  const all = {
    shapes: shapes.map((one) => one.name),
    sample: null,
    later: true,
    recordMs: 12_000,
  };
  return defineCampaign<CrashSize>({
    name,
    faults: `SIGKILL before and after each call that does I/O in engine, relay, timers and workers (bus: ${bus})`,
    sizes: {
      ci: { ...ci, limitMs: 10_000, ...changes.ci },
      release: { ...all, perS: 3, limitMs: 12_000, ...changes.release },
    },
    run: async (open, size, say) => {
      const folder = await mkdtemp(join(tmpdir(), 'sagax-crash-'));
      try {
        return await run(bus, folder, open, size, say);
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    },
  });
}

export const crashPoints = onBus('crash-points', 'kafka', {});
/** A dead member's partitions are free when its lease has ended, so each death takes longer here. */
export const crashPointsOnPostgres = onBus('crash-points-postgres-bus', 'postgres', {
  ci: { sample: 4, limitMs: 25_000 },
  release: { shapes: ['completes'], later: false, limitMs: 25_000 },
});

async function run(
  bus: 'kafka' | 'postgres',
  folder: string,
  open: OpenStage,
  size: CrashSize,
  say: (text: string) => void,
): Promise<Outcome> {
  const { plan, points } = makePlan(ROOT);
  const planFile = join(folder, 'plan.json');
  await writeFile(planFile, JSON.stringify(plan));
  const chosen = shapes.filter(({ name }) => size.shapes.includes(name));
  const [first] = chosen;
  if (first === undefined) throw new Error('The size names no shape.');
  let shape: Shape = first;
  const stage = await open({
    bus,
    engines: 1,
    workers: 1,
    perS: size.perS,
    draw: (n) => shape.draw(n),
    env: { SAGAX_DRAIN_MS: '5000' },
  });
  // They have made topics and tables; from here on the campaign's own processes take their place.
  for (const role of ROLES) for (const one of stage.crew.of(role)) await stage.crew.dismiss(one);
  const range = new Range(stage, { folder, planFile, size, say });
  try {
    for (const next of chosen) {
      shape = next;
      await range.shootAll(shape);
    }
  } finally {
    await range.close();
  }
  await Promise.all(ROLES.map((role) => stage.crew.hire(role)));
  const settled = await stage.settle({ say });
  return report(range, points, settled, say);
}

interface Given {
  folder: string;
  planFile: string;
  size: CrashSize;
  say: (text: string) => void;
}

/** The guns of a stage, and what was shot at. */
class Range {
  readonly passed = new Set<string>();
  readonly shots: { role: VictimRole; shape: string; shot: Shot }[] = [];
  readonly #stage: Stage;
  readonly #given: Given;
  readonly #groups: Groups | null;
  readonly #pool: pg.Pool;
  readonly #guns: { readonly [role in VictimRole]: Gun };

  constructor(stage: Stage, given: Given) {
    this.#stage = stage;
    this.#given = given;
    const { brokers, databaseUrl } = stage.servers;
    this.#groups = brokers === null ? null : new Groups(brokers);
    this.#pool = new pg.Pool({ connectionString: databaseUrl, max: 1 });
    this.#pool.on('error', () => undefined);
    this.#guns = { engine: this.#gun('engine'), worker: this.#gun('worker') };
  }

  #gun(role: VictimRole): Gun {
    const { folder, planFile, size } = this.#given;
    const prefix = this.#stage.env['SAGAX_TOPIC_PREFIX'] ?? '';
    const groups = (role === 'engine' ? ['engine'] : SERVICES).map((name) => `${prefix}.${name}`);
    const services = role === 'worker' ? { SAGAX_SERVICES: SERVICES.join(',') } : {};
    return new Gun({
      role,
      env: { ...this.#stage.env, ...services },
      planFile,
      folder,
      limitMs: size.limitMs,
      whenDead: async () => this.#groups?.empty(groups),
    });
  }

  get unexpected(): UnexpectedEnd[] {
    return ROLES.flatMap((role) => this.#guns[role].unexpected);
  }

  async shootAll(shape: Shape): Promise<void> {
    const { say, size } = this.#given;
    const recorded = await Promise.all(ROLES.map((role) => this.#guns[role].record(size.recordMs)));
    for (const [index, role] of ROLES.entries()) {
      const passages = recorded[index];
      const other = ROLES[1 - index];
      if (passages === undefined || other === undefined) continue;
      const aims = new Aims(size, this.#stage.random);
      aims.learn(passages);
      say(`${shape.name}: ${passages.counts.size} points in the ${role}, ${aims.left} deaths`);
      const endSteady = await this.#guns[other].steady();
      for (let target = aims.next(); target !== null; target = aims.next()) {
        const shot = await this.#guns[role].shoot(target);
        // What comes only after a death is found this way, and died at in its turn.
        if (size.sample === null) aims.learn(shot.passages);
        for (const point of shot.passages.counts.keys()) this.passed.add(point);
        if (shot.outcome === 'died' || !aims.again(target)) {
          this.shots.push({ role, shape: shape.name, shot });
        }
        const { point, passage } = target;
        say(
          `${shape.name} ${role} ${shot.outcome} ${point}@${passage}, ${shot.tookMs} ms, ${aims.left} left`,
        );
        await this.#catchUp(role);
      }
      await endSteady();
    }
  }

  /** Lets what has been waiting for long come to its end, so that steps don't run out of their time one after another. */
  async #catchUp(role: VictimRole): Promise<void> {
    if ((await this.#old()) === 0) return;
    const endSteady = await this.#guns[role].steady();
    const giveUpAt = performance.now() + CATCH_UP_LIMIT_MS;
    while ((await this.#old()) > 0 && performance.now() < giveUpAt) await pause(LOOK_EVERY_MS);
    await endSteady();
  }

  async #old(): Promise<number> {
    const { rows } = await this.#pool.query<{ n: string }>(
      `SELECT count(*) AS n FROM sagax.sagas WHERE ended_at_ms IS NULL AND status <> 'stuck'
         AND started_at_ms < extract(epoch FROM clock_timestamp()) * 1000 - $1`,
      [OLD_MS],
    );
    return Number(rows[0]?.n);
  }

  async close(): Promise<void> {
    await Promise.all(ROLES.map((role) => this.#guns[role].close()));
    await this.#groups?.close();
    await this.#pool.end();
  }
}

/** What is still to be died at: first passages, and later ones of what is passed more than once. */
class Aims {
  readonly #size: CrashSize;
  readonly #random: Dice;
  readonly #known = new Set<string>();
  readonly #tries = new Map<Target, number>();
  #targets: Target[] = [];

  constructor(size: CrashSize, random: Dice) {
    this.#size = size;
    this.#random = random;
  }

  get left(): number {
    return this.#targets.length;
  }

  /** Adds the points that are new, in an order that is drawn: deaths at the start must not come in a row. */
  learn({ counts, drain }: Passages): void {
    const { sample, later } = this.#size;
    for (const [point, count] of counts) {
      if (this.#known.has(point)) continue;
      this.#known.add(point);
      const inDrain = drain.has(point);
      this.#targets.push({ point, passage: 1, inDrain });
      if (!later || count < 2 || inDrain) continue;
      const passage = this.#random.between(2, Math.min(count, LATEST_PASSAGE));
      this.#targets.push({ point, passage, inDrain });
    }
    for (let n = this.#targets.length - 1; n > 0; n--) {
      const other = this.#random.between(0, n);
      [this.#targets[n], this.#targets[other]] = [
        this.#targets[other] as Target,
        this.#targets[n] as Target,
      ];
    }
    if (sample !== null) this.#targets = this.#targets.slice(0, sample);
  }

  next(): Target | null {
    return this.#targets.pop() ?? null;
  }

  /** Puts a target back that was not reached, for a life that follows another death. @returns false: not any more */
  again(target: Target): boolean {
    const tries = (this.#tries.get(target) ?? 1) + 1;
    if (tries > MAX_TRIES) return false;
    this.#tries.set(target, tries);
    this.#targets.unshift(target);
    return true;
  }
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
      points_passed: range.passed.size,
      points_died_at: new Set(died.map(({ shot }) => shot.target.point)).size,
      points_no_run_passes: neverPassed.length,
      aims_not_reached: missed.length,
      sagas_with_a_timeout: timedOut,
    },
  };
}

/** Each saga's end is known beforehand, unless a step ran out of its time while processes were dying. */
function judgeEnds(evidence: Evidence): { violations: Violation[]; timedOut: number } {
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
