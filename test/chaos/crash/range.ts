/**
 * The guns of a stage, and what is shot at: the points that a run passes, in an order that is drawn.
 *
 * Guards that what a run passes is what is died at: each point is learnt from a run of its role, or from a life that
 * followed a death, and is aimed at until it was died at, or was missed twice. While one role dies, the others are steady.
 */
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import type { Role, UnexpectedEnd } from '../crew.ts';
import type { Dice } from '../../support/dice.ts';
import type { Stage } from '../stage.ts';
import { Groups } from './groups.ts';
import { Gun, type Passages, type Shot, type Target } from './gun.ts';
import type { Shape } from './shapes.ts';

/** Those of the order; each is a consumer group that must be joined anew after each death. */
const SERVICES = ['inventory', 'payments', 'shipping', 'notifications'];
const GROUPS: Readonly<Record<Role, readonly string[]>> = {
  engine: ['engine'],
  worker: SERVICES,
  api: [],
};
/** A later passage is one of the 2nd to the 8th: soon reached, and no longer the first of anything. */
const LATEST_PASSAGE = 8;
/** A point that comes only after a death of a certain kind needs luck. */
const MAX_TRIES = 2;
/** Half of what the first step of an order has until it is given up. */
const OLD_MS = 15_000;
const CATCH_UP_LIMIT_MS = 20_000;
const LOOK_EVERY_MS = 100;

export interface CrashSize {
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

export interface RangeOptions {
  /** Whose processes die, one role after the other. The stage's crew has those of the others. */
  victims: readonly Role[];
  /** Points that are died at. */
  aim: RegExp;
  /** Settings of the victims. */
  env: { readonly [name: string]: string };
  folder: string;
  planFile: string;
  size: CrashSize;
  say: (text: string) => void;
}

/** The guns of a stage, and what was shot at. */
export class Range {
  readonly passed = new Set<string>();
  readonly shots: { role: Role; shape: string; shot: Shot }[] = [];
  readonly #stage: Stage;
  readonly #given: RangeOptions;
  readonly #groups: Groups | null;
  readonly #pools: readonly pg.Pool[];
  readonly #guns = new Map<Role, Gun>();

  constructor(stage: Stage, given: RangeOptions) {
    this.#stage = stage;
    this.#given = given;
    const { brokers, logUrls } = stage.servers;
    this.#groups = brokers === null ? null : new Groups(brokers);
    this.#pools = logUrls.map((connectionString) => new pg.Pool({ connectionString, max: 1 }));
    for (const pool of this.#pools) pool.on('error', () => undefined);
    for (const role of given.victims) this.#guns.set(role, this.#makeGun(role));
    if (given.victims.includes('api')) {
      stage.nameApi(() => `api of the campaign, life ${this.#gun('api').lives}`);
    }
  }

  #gun(role: Role): Gun {
    const gun = this.#guns.get(role);
    if (gun === undefined) throw new Error(`No ${role} is to die.`);
    return gun;
  }

  #makeGun(role: Role): Gun {
    const { env, folder, planFile, size } = this.#given;
    const prefix = env['SAGAX_TOPIC_PREFIX'] ?? '';
    const groups = GROUPS[role].map((name) => `${prefix}.${name}`);
    const services = role === 'worker' ? { SAGAX_SERVICES: SERVICES.join(',') } : {};
    return new Gun({
      role,
      env: { ...env, ...services },
      planFile,
      folder,
      limitMs: size.limitMs,
      whenDead: async () => this.#groups?.empty(groups),
    });
  }

  get unexpected(): UnexpectedEnd[] {
    return [...this.#guns.values()].flatMap((gun) => gun.unexpected);
  }

  async shootAll(shape: Shape): Promise<void> {
    const { say, size, aim, victims } = this.#given;
    const recorded = await Promise.all(
      victims.map((role) => this.#gun(role).record(size.recordMs)),
    );
    for (const [index, role] of victims.entries()) {
      const passages = recorded[index];
      if (passages === undefined) continue;
      for (const point of passages.counts.keys()) this.passed.add(point);
      const aims = new Aims(size, aim, this.#stage.random);
      aims.learn(passages);
      say(`${shape.name}: ${passages.counts.size} points in the ${role}, ${aims.left} deaths`);
      const others = victims.filter((other) => other !== role);
      const endSteady = await Promise.all(others.map((other) => this.#gun(other).steady()));
      for (let target = aims.next(); target !== null; target = aims.next()) {
        const shot = await this.#gun(role).shoot(target);
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
      for (const end of endSteady) await end();
    }
  }

  /** Lets what has been waiting for long come to its end, so that steps don't run out of their time one after another. */
  async #catchUp(role: Role): Promise<void> {
    if ((await this.#old()) === 0) return;
    const endSteady = await this.#gun(role).steady();
    const giveUpAt = performance.now() + CATCH_UP_LIMIT_MS;
    while ((await this.#old()) > 0 && performance.now() < giveUpAt) await pause(LOOK_EVERY_MS);
    await endSteady();
  }

  async #old(): Promise<number> {
    const counts = await Promise.all(this.#pools.map(oldIn));
    return counts.reduce((sum, count) => sum + count, 0);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#guns.values()].map((gun) => gun.close()));
    await this.#groups?.close();
    await Promise.all(this.#pools.map((pool) => pool.end()));
  }
}

async function oldIn(pool: pg.Pool): Promise<number> {
  const { rows } = await pool.query<{ n: string }>(
    `SELECT count(*) AS n FROM sagax.sagas WHERE ended_at_ms IS NULL AND status <> 'stuck'
       AND started_at_ms < extract(epoch FROM clock_timestamp()) * 1000 - $1`,
    [OLD_MS],
  );
  return Number(rows[0]?.n);
}

/** What is still to be died at: first passages, and later ones of what is passed more than once. */
class Aims {
  readonly #size: CrashSize;
  readonly #aim: RegExp;
  readonly #random: Dice;
  readonly #known = new Set<string>();
  readonly #tries = new Map<Target, number>();
  #targets: Target[] = [];

  constructor(size: CrashSize, aim: RegExp, random: Dice) {
    this.#size = size;
    this.#aim = aim;
    this.#random = random;
  }

  get left(): number {
    return this.#targets.length;
  }

  /** Adds the points that are new, in an order that is drawn: deaths at the start must not come in a row. */
  learn({ counts, drain }: Passages): void {
    const { sample, later } = this.#size;
    for (const [point, count] of counts) {
      if (this.#known.has(point) || !this.#aim.test(point)) continue;
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
