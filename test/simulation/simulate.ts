/**
 * One simulated run: a world from a seed, production code in it, faults for a while, then calm until
 * everything has ended; then the checker.
 *
 * Guards that a seed gives one run, trace for trace, so that whatever it finds can be found again.
 */
import { decide } from '../../engine/core/decide.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import type { LoggedEvent } from '../../engine/core/events.ts';
import { topicNames } from '../../engine/core/wire.ts';
import {
  CALM,
  MemoryBroker,
  MemoryDatabase,
  World,
  type Random,
} from '../../engine/memory/index.ts';
import { parseEvent } from '../../engine/memory/database.ts';
import type { ParticipantDatabase } from '../../workers/memory/database.ts';
import type { Breakage, Lasting } from './breakage.ts';
import { check } from './checker.ts';
import type { Entry, Evidence, Violation } from './evidence.ts';
import { Onlookers } from './onlookers.ts';
import { GOOD_BEHAVIOUR, Outside, type LedgerEntry } from './participants.ts';
import { drawPlan, type Drawn, type Plan } from './plan.ts';
import { ClientRole, EngineRole, TOPIC_PREFIX, WorkerRole, type Setting } from './processes.ts';
import { Traffic } from './traffic.ts';
import { Witness } from './witness.ts';

export interface SimulationOptions {
  breakage?: Breakage;
  /** Which sagas are drawn. Default: all. */
  drawn?: Drawn;
  /** How long after the faults stopped everything must have ended, ms of virtual time. Default 90 min. */
  settleLimitMs?: number;
  trace?: (line: string) => void;
}

export interface SimulationResult {
  seed: number;
  violations: Violation[];
  traceHash: string;
  /** How often each fault was injected and each thing happened. */
  tally: ReadonlyMap<string, number>;
  /** Virtual time that the run took, ms. */
  virtualMs: number;
  sagas: number;
  events: number;
  evidence: Evidence;
  plan: Plan;
}

/** The default of settleLimitMs: all budgets of attempts and then some. */
const SETTLE_LIMIT_MS = 90 * 60_000;
/** Nothing happens for so long: longer than the longest pause between two attempts. */
const QUIET_MS = 40_000;
const MAX_ITEMS = 1_500_000;
/** What befalls whole processes, not single calls. */
export const ACTS = ['die', 'stop', 'rebalance', 'steal', 'leave', 'poison', 'spoil'] as const;
/** Few, so that Snowflake node ids are reused. */
const NODE_IDS = 6;

export async function simulate(
  seed: number,
  options: SimulationOptions = {},
): Promise<SimulationResult> {
  const run = new Run(seed, options);
  const stopped = await run.play();
  const evidence = run.evidence();
  const violations = check(evidence);
  if (stopped === 'items') {
    violations.push({
      invariant: 'defect',
      sagaId: null,
      what: `${MAX_ITEMS} items without an end`,
    });
  }
  return {
    seed,
    violations,
    traceHash: run.world.traceHash,
    tally: run.world.tally,
    virtualMs: run.virtualMs,
    sagas: evidence.streams.size,
    events: evidence.shardEvents.reduce((sum, events) => sum + events.length, 0),
    evidence,
    plan: run.plan,
  };
}

class Run {
  readonly world: World;
  readonly plan: Plan;
  readonly #random: Random;
  readonly #lasting: Lasting;
  readonly #setting: Setting;
  readonly #traffic: Traffic;
  readonly #onlookers: Onlookers;
  readonly #engines: EngineRole[];
  readonly #workers: WorkerRole[];
  readonly #clients: ClientRole[];
  readonly #entries: Entry[] = [];
  readonly #defects: string[] = [];
  readonly #witness: Witness;
  /** Sagas that have neither ended nor got stuck. */
  readonly #unfinished = new Set<string>();
  readonly #startedAt: number;
  readonly #settleLimitMs: number;
  #lastEventAt = 0;
  #calm = false;

  constructor(seed: number, options: SimulationOptions) {
    this.world = new World({
      seed,
      ...(options.trace === undefined ? {} : { trace: options.trace }),
    });
    this.#startedAt = this.world.now;
    this.#settleLimitMs = options.settleLimitMs ?? SETTLE_LIMIT_MS;
    this.#random = this.world.random.fork();
    this.plan = drawPlan(this.#random, options.drawn ?? 'all');
    this.#witness = new Witness((what) => this.world.count(what));
    this.world.faults = this.plan.faults;
    this.#lasting = this.#makeLasting();
    this.#setting = {
      world: this.world,
      lasting: this.#lasting,
      plan: this.plan,
      participantDatabases: new Map<string, ParticipantDatabase>(),
      breakage: options.breakage ?? {},
      decide: this.#witness.watch(options.breakage?.decide ?? decide),
      defect: (what) => void this.#defects.push(what),
      participants: {
        outside: new Outside(),
        curse: seed,
        behaviour: () => (this.#calm ? this.#calmBehaviour : this.plan.behaviour),
        completeLater: (commandId, sagaId, output) =>
          this.#traffic.completeLater(commandId, sagaId, output),
      },
    };
    const { engines, workerProcesses, clients } = this.plan;
    this.#engines = times(engines, (n) => new EngineRole(this.#setting, `engine-${n}`));
    this.#workers = times(workerProcesses, (n) => new WorkerRole(this.#setting, `worker-${n}`));
    this.#clients = times(clients, (n) => new ClientRole(this.#setting, `client-${n}`));
    this.#traffic = new Traffic(this.#setting, this.#clients);
    this.#onlookers = new Onlookers(this.#setting, this.#clients);
    this.world.onCrash = (node) => {
      this.#roles()
        .find((role) => role.node === node)
        ?.died();
    };
  }

  get virtualMs(): number {
    return this.world.now - this.#startedAt;
  }

  get #calmBehaviour() {
    const { cursedForEver, cursedShare } = this.plan.behaviour;
    return { ...GOOD_BEHAVIOUR, cursedShare: cursedForEver ? cursedShare : 0 };
  }

  #roles(): (EngineRole | WorkerRole | ClientRole)[] {
    return [...this.#engines, ...this.#workers, ...this.#clients];
  }

  #makeLasting(): Lasting {
    const { random } = this.world;
    const broker = new MemoryBroker({
      sessionTimeoutMs: this.plan.sessionTimeoutMs,
      assign: (partitions, members) => partitions.map(() => random.int(0, members - 1)),
    });
    const db: MemoryDatabase = new MemoryDatabase({
      shards: this.plan.shards,
      nodeIds: NODE_IDS,
      now: () => this.world.now,
      observer: {
        acquired: ({ shard, epoch }, at) =>
          void this.#entries.push({ kind: 'acquired', shard, epoch, at }),
        appended: (batch, at) => {
          this.#note(batch, at);
        },
      },
    });
    return { db, broker };
  }

  #note(
    batch: Parameters<NonNullable<MemoryDatabase['observer']['appended']>>[0],
    at: number,
  ): void {
    this.#witness.committed(batch);
    this.#entries.push({
      kind: 'appended',
      shard: batch.shard,
      epoch: batch.epoch,
      at,
      nextOffset: batch.nextOffset ?? null,
      events: batch.events.map(({ sagaId, streamVersion, shardSeq, epoch }) => ({
        sagaId,
        streamVersion,
        shardSeq,
        epoch,
      })),
      summaries: structuredClone(batch.summaries),
      snapshots: batch.snapshots.map((snapshot) => ({ ...snapshot, state: null })),
    });
    if (batch.events.length > 0 || batch.nextOffset !== undefined) this.#lastEventAt = at;
    for (const { sagaId, status } of batch.summaries) {
      if (status === 'completed' || status === 'compensated' || status === 'stuck') {
        this.#unfinished.delete(sagaId);
      } else {
        this.#unfinished.add(sagaId);
      }
    }
  }

  async play(): Promise<'done' | 'idle' | 'time' | 'items'> {
    const { world, plan } = this;
    for (const role of this.#roles()) role.launch();
    this.#traffic.begin();
    this.#onlookers.begin(() => this.#calm);
    world.schedule(this.#random.int(...plan.actPauseMs), () => this.#act());
    await world.run({ untilMs: this.#startedAt + plan.chaosMs, maxItems: MAX_ITEMS });
    this.#calm = true;
    world.faults = CALM;
    world.record('calm');
    this.#resumeLoop();
    return world.run({
      untilMs: world.now + this.#settleLimitMs,
      maxItems: MAX_ITEMS,
      done: () => this.#isOver(),
    });
  }

  #isOver(): boolean {
    if (this.#unfinished.size > 0 || this.world.now - this.#lastEventAt < QUIET_MS) return false;
    return this.#traffic.pending === 0 && this.#inboxIsApplied();
  }

  #inboxIsApplied(): boolean {
    const { db, broker } = this.#lasting;
    try {
      const ends = broker.endOffsets(topicNames(TOPIC_PREFIX).inbox);
      return db.shards.every(({ shard, nextOffset }) => nextOffset === ends.get(shard));
    } catch (error) {
      if (error instanceof SagaxError) return false;
      throw error;
    }
  }

  #resumeLoop(): void {
    this.#traffic.resumeAll();
    this.world.schedule(5_000, () => this.#resumeLoop());
  }

  /** One act of the chaos: something that happens to a process or to the whole, not to a single call. */
  #act(): void {
    if (this.#calm) return;
    const { world, plan } = this;
    const random = this.#random;
    world.schedule(random.int(...plan.actPauseMs), () => this.#act());
    const role = random.pick(this.#roles());
    const act = random.pick(ACTS);
    world.record(`act ${act} ${role.node.name}`);
    world.count(`act ${act}`);
    switch (act) {
      case 'die':
        if (!role.node.alive) return;
        role.node.crash();
        role.died();
        return;
      case 'stop':
        return role.node.pause(random.int(500, 15_000));
      case 'rebalance':
        return this.#lasting.broker.rebalanceAll();
      case 'steal':
        return this.#steal();
      case 'leave':
        if (role.node.alive && !role.node.paused) void role.leave();
        return;
      case 'poison':
        if (random.chance(plan.poisonChance)) this.#traffic.poison();
        return;
      case 'spoil':
        return this.#spoil();
    }
  }

  /** A snapshot that does not fit the log any more: it must be thrown away, never believed. */
  #spoil(): void {
    const { snapshots } = this.#lasting.db;
    for (const [sagaId, text] of snapshots) {
      this.world.count('spoiled snapshot');
      snapshots.set(sagaId, text.replace('"stepCount":', '"stepCount":1'));
    }
  }

  /** A node that nobody knows of takes a shard and is never heard of again: its owner is fenced. */
  #steal(): void {
    const { db } = this.#lasting;
    const row = this.#random.pick(db.shards);
    row.epoch += 1;
    row.owner = 'stranger';
    row.expiresAt = db.now() + this.plan.leaseTtlMs;
    db.observer.acquired?.({ shard: row.shard, owner: 'stranger', epoch: row.epoch }, db.now());
  }

  // -------------------------------------------------------------- what is left

  evidence(): Evidence {
    const { db, broker } = this.#lasting;
    const topics = topicNames(TOPIC_PREFIX);
    const services = this.plan.definitions.flatMap((definition) => definition.services);
    return {
      shardEvents: db.byShard.map((events) => events.map(parseEvent)),
      streams: new Map(
        [...db.streams.keys()].map((id): [string, LoggedEvent[]] => [id, db.stream(id)]),
      ),
      entries: this.#entries,
      shards: db.shards,
      deadLetters: db.deadLetters,
      summaries: db.summaries,
      live: this.#witness.live,
      shown: this.#onlookers.shown,
      accepted: this.#traffic.accepted,
      keyed: this.#traffic.keyed,
      inbox: broker.record(topics.inbox),
      commands: [...new Set(services)]
        .flatMap((service) => broker.record(topics.commands(service)))
        .filter(({ headers }) => headers['poison'] === undefined),
      domainEvents: broker.record(topics.domainEvents),
      ledger: this.#ledger(),
      ids: this.#traffic.ids,
      definitions: this.plan.definitions,
      topicPrefix: TOPIC_PREFIX,
      commandPartitions: this.plan.commandPartitions,
      defects: this.#defects,
    };
  }

  #ledger(): Map<string, LedgerEntry> {
    const ledger = new Map(this.#setting.participants.outside.ledger);
    for (const { values } of this.#setting.participantDatabases.values()) {
      for (const [key, value] of values) {
        if (!key.startsWith('applied/')) continue;
        ledger.set(key.slice('applied/'.length), value as unknown as LedgerEntry);
      }
    }
    return ledger;
  }
}

function times<T>(count: number, make: (n: number) => T): T[] {
  return Array.from({ length: count }, (_, n) => make(n));
}
