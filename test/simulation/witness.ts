/**
 * The witness: what engines held in memory, seen where `decide` is called, and what became of it.
 *
 * Guards I9 in full: for every decision that was committed the checker gets the hash of the very state that
 * the shard held then, and for every state that a shard read back from log or snapshot its hash too. What a
 * shard holds is frozen, so that whoever changes it in place is found out where it does so.
 */
import type { decide } from '../../engine/core/decide.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import type { SagaState } from '../../engine/core/state.ts';
import type { ShardBatch } from '../../engine/ports.ts';
import { stateHash } from '../../engine/runtime/saga-store.ts';

/** A state that was live, by its stream version. */
export interface LiveState {
  version: number;
  hash: string;
  /** `decided`: it came of a decision that was committed. `restored`: it was read back from the log. */
  origin: 'decided' | 'restored';
}

export class Witness {
  /** By saga. */
  readonly live = new Map<string, LiveState[]>();
  readonly #count: (what: string) => void;
  /** States that decisions gave; every other one was read back. */
  readonly #decided = new WeakSet<SagaState>();
  readonly #restored = new WeakSet<SagaState>();
  /** The last event of each decision → the state after it. */
  readonly #after = new WeakMap<SagaEvent, LiveState>();

  /** @param count takes the outcomes of decisions, e.g. `decide reply ignored` */
  constructor(count: (what: string) => void) {
    this.#count = count;
  }

  /** The same `decide`, watched. */
  watch(inner: typeof decide): typeof decide {
    return (definition, sagaId, state, input, now) => {
      if (state !== null) this.#noteRestored(sagaId, state);
      const decision = inner(definition, sagaId, state, input, now);
      this.#count(`decide ${input.type} ${decision.kind}`);
      if (decision.kind === 'ignored') this.#count(`ignored ${decision.why}`);
      if (decision.kind === 'refused') this.#count(`refused ${decision.code}`);
      if (decision.kind === 'accepted') this.#noteDecided(decision.events, decision.state);
      return decision;
    };
  }

  /** What this batch holds has become the truth. */
  committed({ events }: ShardBatch): void {
    for (const { sagaId, event } of events) {
      const after = this.#after.get(event);
      if (after !== undefined) this.#note(sagaId, after);
    }
  }

  #noteRestored(sagaId: string, state: SagaState): void {
    if (this.#decided.has(state) || this.#restored.has(state)) return;
    this.#restored.add(state);
    freeze(state);
    this.#note(sagaId, {
      version: state.streamVersion,
      hash: stateHash(state),
      origin: 'restored',
    });
    this.#count('states restored');
  }

  #noteDecided(events: readonly SagaEvent[], state: SagaState): void {
    const last = events.at(-1);
    this.#decided.add(state);
    freeze(state);
    if (last === undefined) return;
    this.#after.set(last, {
      version: state.streamVersion,
      hash: stateHash(state),
      origin: 'decided',
    });
  }

  #note(sagaId: string, state: LiveState): void {
    const states = this.live.get(sagaId);
    if (states === undefined) this.live.set(sagaId, [state]);
    else states.push(state);
  }
}

/** Freezes a value and all in it; what is frozen already is so throughout. */
export function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return;
  Object.freeze(value);
  for (const inner of Object.values(value)) freeze(inner);
}
