/**
 * A simulated world: one thread, virtual time, one seed. Whatever happens in it is an item of one
 * queue, ordered by time and, at the same time, by a seeded draw; between two items all promises settle.
 *
 * Guards that a seed replays to the same run, whatever the machine. Nodes (processes) live in the
 * world: what they call can be delayed, reordered, fail, or never return. Their death leaves the
 * lasting state (database, broker) as it is, requests that are under way included.
 */
import type { Clock } from '../ports.ts';
import { CALM, drawFate, drawLatency, type Fate, type FaultPlan } from './faults.ts';
import { databaseUnavailable, never, type Host, type IoCall } from './host.ts';
import { Random } from './random.ts';

interface Item {
  time: number;
  tie: number;
  order: number;
  run: () => void;
}

/** 2026-01-01T00:00:00Z: where virtual time begins. */
export const WORLD_START_MS = 1_767_225_600_000;

export interface WorldOptions {
  seed: number;
  faults?: FaultPlan;
  /** Gets one line for each thing that happens; leave it out for speed. */
  trace?: (line: string) => void;
}

export class World {
  readonly random: Random;
  faults: FaultPlan;
  /** How often each thing happened, e.g. `crashAfter log.append`. */
  readonly tally = new Map<string, number>();
  /** Called when a fault kills a node, so that the simulation can start it again. */
  onCrash: (node: WorldNode) => void = () => undefined;

  #now = WORLD_START_MS;
  #order = 0;
  readonly #heap: Item[] = [];
  readonly #trace: ((line: string) => void) | undefined;
  #hash = 0x811c9dc5;

  constructor(options: WorldOptions) {
    this.random = new Random(options.seed);
    this.faults = options.faults ?? CALM;
    this.#trace = options.trace;
  }

  /** Virtual time, ms since the epoch: the clock of the lasting state (the database's). */
  get now(): number {
    return this.#now;
  }

  /** A hash over everything that has happened so far; equal for two runs of one seed. */
  get traceHash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }

  node(name: string): WorldNode {
    return new WorldNode(this, name);
  }

  /** Runs `run` after `delayMs`; items of the same time run in a drawn order. */
  schedule(delayMs: number, run: () => void): void {
    push(this.#heap, {
      time: this.#now + Math.max(0, delayMs),
      tie: this.random.uint32(),
      order: this.#order++,
      run,
    });
  }

  /** Puts down that something happened, in the trace's hash and, when asked for, in words. */
  record(line: string): void {
    let hash = this.#hash ^ (this.#now - WORLD_START_MS);
    for (let i = 0; i < line.length; i++) {
      hash = Math.imul(hash ^ line.charCodeAt(i), 0x01000193);
    }
    this.#hash = hash;
    this.#trace?.(`${String(this.#now - WORLD_START_MS).padStart(9)} ${line}`);
  }

  count(what: string): void {
    this.tally.set(what, (this.tally.get(what) ?? 0) + 1);
  }

  /**
   * Runs until `done()` holds, nothing is left to happen, or `untilMs` (absolute) has come.
   * @param maxItems stops a world that goes round in circles without time passing
   * @returns why it stopped
   */
  run(options: {
    done?: () => boolean;
    untilMs?: number;
    maxItems?: number;
  }): Promise<'done' | 'idle' | 'time' | 'items'> {
    const untilMs = options.untilMs ?? Infinity;
    const maxItems = options.maxItems ?? 5_000_000;
    let items = 0;
    return inTurns(() => {
      if (options.done?.() === true) return 'done';
      const next = this.#heap[0];
      if (next === undefined) return 'idle';
      if (next.time > untilMs) {
        this.#now = untilMs;
        return 'time';
      }
      if (items++ >= maxItems) return 'items';
      pop(this.#heap);
      this.#now = Math.max(this.#now, next.time);
      next.run();
      return null;
    });
  }
}

/** Immediates asked for at once: the event loop then turns once for all of them, which takes a quarter of the time. */
const TURNS_AT_ONCE = 64;

/**
 * Calls `step` again and again, each time with all promises settled that can settle by themselves, until it
 * says why to stop. (Between two immediates Node works off all microtasks.)
 */
function inTurns<T>(step: () => T | null): Promise<T> {
  return new Promise((resolve, reject) => {
    let waiting = 0;
    let isOver = false;
    const turn = (): void => {
      waiting -= 1;
      if (isOver) return;
      try {
        const reason = step();
        if (reason !== null) {
          isOver = true;
          resolve(reason);
        }
      } catch (error) {
        isOver = true;
        reject(error instanceof Error ? error : new Error(String(error)));
      }
      if (!isOver && waiting === 0) ask();
    };
    const ask = (): void => {
      waiting = TURNS_AT_ONCE;
      for (let n = 0; n < TURNS_AT_ONCE; n++) setImmediate(turn);
    };
    ask();
  });
}

/** A process in the world. A restart is a new node over the same lasting state. */
export class WorldNode implements Host {
  readonly world: World;
  readonly name: string;
  readonly clock: VirtualClock;
  #alive = true;
  #silentSince: number | null = null;
  /** What came for the node while it was stopped; empty while it runs. */
  #held: (() => void)[] | null = null;
  readonly #silenceListeners: { afterMs: number; listener: () => void }[] = [];

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    const lag = world.faults.clockLagMs;
    this.clock = new VirtualClock(this, lag === 0 ? 0 : world.random.int(0, lag));
  }

  get alive(): boolean {
    return this.#alive;
  }

  get paused(): boolean {
    return this.#held !== null;
  }

  /** Dies at once: what it waits for never comes; requests that are under way still take effect. */
  crash(): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#held = null;
    this.world.record(`${this.name} dies`);
    this.#goSilent();
  }

  /** Stops for `ms` (SIGSTOP) and then goes on as if nothing had been: a zombie, when its leases ran out. */
  pause(ms: number): void {
    if (!this.#alive || this.#held !== null) return;
    this.#held = [];
    this.world.record(`${this.name} stops for ${ms} ms`);
    this.#goSilent();
    this.world.schedule(ms, () => this.#resume());
  }

  #resume(): void {
    if (!this.#alive || this.#held === null) return;
    const held = this.#held;
    this.#held = null;
    this.#silentSince = null;
    this.world.record(`${this.name} goes on`);
    for (const run of held) this.world.schedule(0, () => this.deliver(run));
  }

  #goSilent(): void {
    const since = this.world.now;
    this.#silentSince = since;
    for (const { afterMs, listener } of this.#silenceListeners) {
      this.world.schedule(afterMs, () => {
        if (this.#silentSince === since) listener();
      });
    }
  }

  onSilent(afterMs: number, listener: () => void): void {
    this.#silenceListeners.push({ afterMs, listener });
  }

  /** Runs something inside the process: now, when it goes on again, or never. */
  deliver(run: () => void): void {
    if (!this.#alive) return;
    if (this.#held === null) run();
    else this.#held.push(run);
  }

  io<T>(call: IoCall<T>): Promise<T> {
    if (!this.#alive) return never();
    return new Promise((resolve, reject) => {
      this.deliver(() => {
        if (!this.#begin(call, resolve, reject))
          this.#held?.push(() => this.#send(call, 'done', resolve, reject));
      });
    });
  }

  /** @returns false when the node was stopped by the call, which is then still to be sent. */
  #begin<T>(
    call: IoCall<T>,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
  ): boolean {
    const { world } = this;
    const fate = drawFate(world.faults, world.random, call.point);
    world.count(`${fate} ${call.point}`);
    if (fate === 'pause') {
      this.pause(world.random.int(...world.faults.pauseMs));
      return false;
    }
    if (fate === 'crashBefore') {
      this.#die();
      return true;
    }
    this.#send(call, fate, resolve, reject);
    // The request is on its way when the process dies: it takes effect, but nobody hears of it.
    if (fate === 'crashDuring') this.#die();
    return true;
  }

  #send<T>(
    call: IoCall<T>,
    fate: Fate,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
  ): void {
    const { world } = this;
    const failure = call.failure ?? ((): Error => databaseUnavailable(call.point));
    world.schedule(drawLatency(world.faults, world.random), () => {
      const outcome = this.#take(call, fate, failure);
      world.record(`${this.name} ${call.point} ${fate}${outcome.error === undefined ? '' : ' !'}`);
      if (fate === 'crashAfter') {
        this.#die();
        return;
      }
      world.schedule(drawLatency(world.faults, world.random), () =>
        this.deliver(() => {
          if (outcome.error === undefined) resolve(outcome.value as T);
          else reject(outcome.error);
        }),
      );
    });
  }

  /** The call arrives at the lasting state. */
  #take<T>(call: IoCall<T>, fate: Fate, failure: () => Error): { value?: T; error?: unknown } {
    const unknown = call.unknown ?? failure;
    if (fate === 'failed') return { error: failure() };
    if (fate === 'unknownNotDone') return { error: unknown() };
    if (fate === 'unknownPartial' && call.partial !== undefined) {
      call.partial(this.world.random.unit());
      return { error: unknown() };
    }
    try {
      const value = call.work();
      return fate === 'done' || fate === 'crashDuring' || fate === 'crashAfter'
        ? { value }
        : { error: unknown() };
    } catch (error) {
      return { error };
    }
  }

  #die(): void {
    if (!this.#alive) return;
    this.crash();
    this.world.onCrash(this);
  }
}

/** A node's clock: virtual time, a constant lag behind the database's, sleeps that end with the process. */
export class VirtualClock implements Clock {
  readonly #node: WorldNode;
  readonly #lagMs: number;
  readonly #bornAt: number;

  constructor(node: WorldNode, lagMs: number) {
    this.#node = node;
    this.#lagMs = lagMs;
    this.#bornAt = node.world.now;
  }

  now(): number {
    return this.#node.world.now - this.#lagMs;
  }

  monotonic(): number {
    return this.#node.world.now - this.#bornAt;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<boolean> {
    if (signal?.aborted === true) return Promise.resolve(false);
    if (!this.#node.alive) return never();
    return new Promise((resolve) => {
      const stop = (): void => resolve(false);
      signal?.addEventListener('abort', stop, { once: true });
      this.#node.world.schedule(ms, () =>
        this.#node.deliver(() => {
          signal?.removeEventListener('abort', stop);
          resolve(true);
        }),
      );
    });
  }
}

// ---------------------------------------------------------------- binary heap

function before(a: Item, b: Item): boolean {
  if (a.time !== b.time) return a.time < b.time;
  return a.tie !== b.tie ? a.tie < b.tie : a.order < b.order;
}

function push(heap: Item[], item: Item): void {
  let index = heap.length;
  heap.push(item);
  while (index > 0) {
    const parent = (index - 1) >> 1;
    const above = heap[parent] as Item;
    if (!before(item, above)) break;
    heap[index] = above;
    index = parent;
  }
  heap[index] = item;
}

function pop(heap: Item[]): Item | undefined {
  const top = heap[0];
  const last = heap.pop();
  if (top === undefined || last === undefined || heap.length === 0) return top;
  let index = 0;
  for (;;) {
    let child = index * 2 + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && before(heap[child + 1] as Item, heap[child] as Item)) child += 1;
    const below = heap[child] as Item;
    if (!before(below, last)) break;
    heap[index] = below;
    index = child;
  }
  heap[index] = last;
  return top;
}
