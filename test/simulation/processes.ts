/**
 * The processes of a simulation: engine nodes, worker processes and clients, as in production, on the
 * memory ports of a world. Each is started again after it died.
 */
import { createEngine, type Engine } from '../../engine/runtime/engine.ts';
import { createSnowflakes, type Snowflakes } from '../../engine/runtime/snowflake.ts';
import { silentTelemetry, type Telemetry } from '../../engine/runtime/telemetry.ts';
import type { decide } from '../../engine/core/decide.ts';
import { SagaxError } from '../../engine/core/errors.ts';
import {
  memoryPorts,
  type MemoryPorts,
  type World,
  type WorldNode,
} from '../../engine/memory/index.ts';
import type { BusMessage, EventLog } from '../../engine/ports.ts';
import { ParticipantDatabase } from '../../workers/memory/database.ts';
import { memoryStore } from '../../workers/memory/store.ts';
import { createWorker, type Worker } from '../../workers/worker.ts';
import type { Log } from '../../workers/handlers.ts';
import type { Breakage, Lasting } from './breakage.ts';
import { participantHandlers, type ParticipantWorld } from './participants.ts';
import type { Plan } from './plan.ts';

export const TOPIC_PREFIX = 'sim';
/** Pause before a process that died is back, ms. */
const RESTART_MS: readonly [number, number] = [100, 5_000];
/** Share of the participant store's operations that are calls of their own: all of them would cost too much. */
const STORE_CALL_SHARE = 0.3;
const NODE_ID_TTL_MS = 3_000;

export interface Setting {
  world: World;
  lasting: Lasting;
  plan: Plan;
  participants: ParticipantWorld;
  participantDatabases: Map<string, ParticipantDatabase>;
  breakage: Breakage;
  /** The engines' `decide`: watched, and broken where the breakage says so. */
  decide: typeof decide;
  /** Takes an error that the runtime reported as its own. */
  defect: (what: string) => void;
}

export interface Client {
  node: WorldNode;
  ports: MemoryPorts;
  snowflakes: Snowflakes | null;
}

/** Keeps one role filled: a new process a while after the last one died. */
abstract class Role {
  protected readonly setting: Setting;
  readonly #name: string;
  #generation = 0;
  node!: WorldNode;

  constructor(setting: Setting, name: string) {
    this.setting = setting;
    this.#name = name;
  }

  launch(): void {
    this.#generation += 1;
    this.node = this.setting.world.node(`${this.#name}.${this.#generation}`);
    this.begin();
  }

  /** The process died, by a fault or by an act of the chaos. */
  died(): void {
    this.end();
    const { world } = this.setting;
    world.count(`restarts of ${this.#name.replace(/-.*/, '')}`);
    world.schedule(world.random.int(...RESTART_MS), () => this.launch());
  }

  /** Ends in good order, as in a deployment, and is started again. */
  async leave(): Promise<void> {
    const { node } = this;
    this.setting.world.count(`drains of ${this.#name.replace(/-.*/, '')}`);
    await this.drain();
    if (!node.alive) return;
    node.crash();
    this.died();
  }

  protected openPorts(): MemoryPorts {
    const { lasting, world, plan, breakage } = this.setting;
    return memoryPorts(lasting.db, lasting.broker, this.node, {
      // A broken bus must see what goes over it.
      busInLog: plan.busInLog && breakage.bus === undefined,
      commitIntervalMs: 500,
      onPublished: (messages) => duplicate(world, lasting, messages),
    });
  }

  protected abstract begin(): void;
  protected abstract end(): void;
  protected abstract drain(): Promise<void>;
}

/** A producer's retry whose first try had got through: the same messages again, later. */
function duplicate(world: World, { broker }: Lasting, messages: readonly BusMessage[]): void {
  if (!world.random.chance(world.faults.duplicateChance)) return;
  world.count('duplicated publish');
  world.schedule(world.random.int(...world.faults.duplicateMs), () => broker.append(messages));
}

export class EngineRole extends Role {
  #engine!: Engine;

  protected begin(): void {
    const { lasting, plan, breakage } = this.setting;
    const ports = this.openPorts();
    this.#engine = createEngine({
      definitions: plan.definitions,
      eventLog: this.#counting(breakage.eventLog?.(ports.eventLog, lasting) ?? ports.eventLog),
      shardLeases: breakage.shardLeases?.(ports.shardLeases, lasting) ?? ports.shardLeases,
      bus: breakage.bus?.(ports.bus, lasting) ?? ports.bus,
      clock: breakage.clock?.(ports.clock) ?? ports.clock,
      topology: { topicPrefix: TOPIC_PREFIX, commandPartitions: plan.commandPartitions },
      owner: this.node.name,
      telemetry: telemetryTo(this.setting),
      leaseTtlMs: plan.leaseTtlMs,
      decide: this.setting.decide,
    });
    void this.#start();
  }

  /** Fences and lost commits are everyday for a shard, which says nothing of them: they are counted here. */
  #counting(log: EventLog): EventLog {
    const { world } = this.setting;
    return {
      ...log,
      append: async (batch) => {
        try {
          const appended = await log.append(batch);
          if (appended.published) world.count('batches that said something with their commit');
          return appended;
        } catch (error) {
          if (error instanceof SagaxError) world.count(`code ${error.code}`);
          throw error;
        }
      },
    };
  }

  async #start(): Promise<void> {
    const { node } = this;
    try {
      await this.#engine.start();
    } catch (error) {
      // As a process would: it can't start, ends, and is started again.
      this.setting.world.count('failed starts of engine');
      if (!(error instanceof SagaxError)) this.setting.defect(`engine.start: ${String(error)}`);
      if (!node.alive) return;
      node.crash();
      this.died();
    }
  }

  protected end(): void {
    return;
  }

  protected drain(): Promise<void> {
    return this.#engine.drain();
  }
}

export class WorkerRole extends Role {
  #workers: Worker[] = [];
  #kill: (() => void)[] = [];

  protected begin(): void {
    const { world, plan, participants, participantDatabases, breakage } = this.setting;
    const { node } = this;
    const ports = this.openPorts();
    const services = new Set(plan.definitions.flatMap((definition) => definition.services));
    this.#kill = [];
    this.#workers = [...services].sort().map((service) => {
      const database =
        participantDatabases.get(service) ?? new ParticipantDatabase(() => world.now);
      participantDatabases.set(service, database);
      const store = memoryStore({
        database,
        gate: (point) =>
          world.faults.focus?.point === `store.${point}` || world.random.chance(STORE_CALL_SHARE)
            ? node.io({ point: `store.${point}`, work: () => undefined, failure: transient })
            : Promise.resolve(),
      });
      this.#kill.push(() => store.kill());
      return createWorker({
        service,
        store: breakage.store?.(store) ?? store,
        handlers: participantHandlers(service, node, participants),
        bus: ports.bus,
        clock: ports.clock,
        topicPrefix: TOPIC_PREFIX,
        log: logTo(this.setting.defect),
        concurrency: 4,
        commandPartitions: plan.commandPartitions,
        transactionTimeoutMs: 20_000,
      });
    });
    for (const worker of this.#workers) void this.#start(worker);
  }

  async #start(worker: Worker): Promise<void> {
    const { node } = this;
    try {
      await worker.start();
    } catch {
      this.setting.world.count('failed starts of worker');
      if (!node.alive) return;
      node.crash();
      this.died();
    }
  }

  protected end(): void {
    for (const kill of this.#kill) kill();
  }

  protected async drain(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.drain(2_000)));
  }
}

export class ClientRole extends Role implements Client {
  ports!: MemoryPorts;
  snowflakes: Snowflakes | null = null;

  protected begin(): void {
    this.ports = this.openPorts();
    this.snowflakes = null;
    void this.#lease(this.node);
  }

  async #lease(node: WorldNode): Promise<void> {
    const { breakage, defect } = this.setting;
    const nodeIds = breakage.nodeIds?.(this.ports.nodeIds) ?? this.ports.nodeIds;
    for (;;) {
      try {
        const snowflakes = await createSnowflakes(nodeIds, node.clock, node.name, NODE_ID_TTL_MS);
        if (this.node === node) this.snowflakes = snowflakes;
        return;
      } catch (error) {
        if (!(error instanceof SagaxError)) defect(`createSnowflakes: ${String(error)}`);
        await node.clock.sleep(500);
      }
    }
  }

  protected end(): void {
    return;
  }

  protected async drain(): Promise<void> {
    await this.snowflakes?.close();
  }
}

/** As Postgres says it: the transaction may be tried again. */
function transient(): Error {
  return Object.assign(new Error('could not serialize access'), { code: '40001' });
}

function telemetryTo({ world, defect }: Setting): Telemetry {
  const count = (fields: object): SagaxError | null => {
    const { err } = fields as { err?: unknown };
    if (!(err instanceof SagaxError)) return null;
    world.count(`code ${err.code}`);
    return err;
  };
  return {
    ...silentTelemetry,
    log: {
      ...silentTelemetry.log,
      info: (fields) => void count(fields),
      warn: (fields) => void count(fields),
      error: (fields, message) => {
        const { err } = fields as { err?: unknown };
        if (count(fields)?.kind === 'retryable') return;
        defect(`${message}: ${err instanceof Error ? err.stack : String(err)}`);
      },
    },
  };
}

function logTo(defect: (what: string) => void): Log {
  return {
    ...silentTelemetry.log,
    error: (fields, message) => {
      const { error } = fields as { error?: unknown };
      if (message.includes('could not be handled')) defect(`${message}: ${String(error)}`);
    },
  };
}
