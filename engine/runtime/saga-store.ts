/**
 * States of one shard's sagas: a bounded cache over the event log.
 *
 * Guards that a cached or snapshotted state is never trusted over the log: a snapshot whose hashes
 * don't fit is thrown away and reported, and a log that the definition doesn't give any more stops
 * that saga (I9). Only the shard's owner uses it; losing it loses nothing.
 */
import { createHash } from 'node:crypto';
import { ReplayDivergence, SagaxError } from '../core/errors.ts';
import { TERMINAL_EVENTS, type LoggedEvent } from '../core/events.ts';
import { fold } from '../core/evolve.ts';
import { canonicalJson, type Json } from '../core/json.ts';
import { inMachineOrder } from '../core/machine.ts';
import type { AnyDefinition } from '../core/define.ts';
import type { SagaState } from '../core/state.ts';
import type { EventLog, SagaSnapshot } from '../ports.ts';
import type { Registry } from './registry.ts';
import type { Telemetry } from './telemetry.ts';

/** What is known of a saga id. */
export type Entry =
  | {
      kind: 'live';
      definition: AnyDefinition;
      state: SagaState;
      wakeAt: number | null | undefined;
      snapshotVersion: number;
    }
  | { kind: 'absent' }
  | { kind: 'ended' }
  /** The definition's version is not known here, or no longer gives what the log has. */
  | { kind: 'unusable'; error: SagaxError };

export interface SagaStoreDeps {
  eventLog: EventLog;
  registry: Registry;
  telemetry: Telemetry;
  /** Most live sagas kept in memory, and as many ids of ended ones. */
  capacity: number;
}

/**
 * Part of a state's hash: raised with every change of SagaState, so that no older snapshot is taken for a new one. A new
 * field is none when all that was started before goes on without it.
 */
const STATE_SHAPE = 1;

export class SagaStore {
  readonly #deps: SagaStoreDeps;
  /** In order of use, oldest first. */
  readonly #cache = new Map<string, Extract<Entry, { kind: 'live' }>>();
  /** Ids of sagas that ended lately: without them each late or repeated answer would read a whole stream. */
  readonly #ended = new Set<string>();

  constructor(deps: SagaStoreDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#cache.size;
  }

  /** Entries for all ids, read in one go where they aren't cached. */
  async get(sagaIds: ReadonlySet<string>): Promise<Map<string, Entry>> {
    const entries = new Map<string, Entry>();
    const missing: string[] = [];
    for (const sagaId of sagaIds) {
      const cached = this.#cache.get(sagaId);
      if (cached !== undefined) entries.set(sagaId, cached);
      else if (this.#ended.has(sagaId)) entries.set(sagaId, { kind: 'ended' });
      else missing.push(sagaId);
    }
    if (missing.length > 0) {
      const loaded = await this.#deps.eventLog.load(missing);
      for (const sagaId of missing)
        entries.set(sagaId, await this.#restore(sagaId, loaded.get(sagaId)));
    }
    return entries;
  }

  /** Keeps what was committed. */
  put(sagaId: string, entry: Extract<Entry, { kind: 'live' }>): void {
    this.#cache.delete(sagaId);
    if (entry.state.phase === 'ended') return this.#noteEnded(sagaId);
    this.#cache.set(sagaId, entry);
    if (this.#cache.size <= this.#deps.capacity) return;
    const oldest = this.#cache.keys().next().value;
    if (oldest !== undefined) this.#cache.delete(oldest);
  }

  /** Nothing follows an end (I5), so this can't become wrong. */
  #noteEnded(sagaId: string): void {
    this.#ended.add(sagaId);
    if (this.#ended.size <= this.#deps.capacity) return;
    const oldest = this.#ended.values().next().value;
    if (oldest !== undefined) this.#ended.delete(oldest);
  }

  async #restore(
    sagaId: string,
    loaded: { snapshot: SagaSnapshot | null; events: LoggedEvent[] } | undefined,
  ): Promise<Entry> {
    if (loaded === undefined || (loaded.snapshot === null && loaded.events.length === 0))
      return { kind: 'absent' };
    const last = loaded.events.at(-1);
    if (last !== undefined && TERMINAL_EVENTS.has(last.event.type)) {
      this.#noteEnded(sagaId);
      return { kind: 'ended' };
    }
    const { snapshot } = loaded;
    if (snapshot !== null) {
      const entry = this.#fromSnapshot(sagaId, snapshot, loaded.events);
      if (entry !== null) return entry;
      this.#deps.telemetry.count('snapshots_discarded_total');
      this.#deps.telemetry.log.warn(
        { sagaId, streamVersion: snapshot.streamVersion },
        'a snapshot does not fit its hashes or its log; it is thrown away and the log refolded',
      );
      const whole = await this.#deps.eventLog.load([sagaId], { ignoreSnapshots: true });
      return this.#fromLog(sagaId, whole.get(sagaId)?.events ?? []);
    }
    return this.#fromLog(sagaId, loaded.events);
  }

  /** @returns null when the snapshot is of no use: then the log alone decides */
  #fromSnapshot(
    sagaId: string,
    snapshot: SagaSnapshot,
    events: readonly LoggedEvent[],
  ): Entry | null {
    const state = snapshot.state as unknown as SagaState;
    if (stateHash(state) !== snapshot.stateHash) return null;
    const definition = this.#deps.registry.get(state.definition, state.definitionVersion);
    if (definition === undefined || snapshot.definitionHash !== definition.hash) return null;
    if (state.sagaId !== sagaId || state.streamVersion !== snapshot.streamVersion) return null;
    const from = restoreState(definition, state);
    const entry = this.#fold(sagaId, definition, events, from, snapshot.streamVersion);
    return entry instanceof SagaxError ? null : entry;
  }

  #fromLog(sagaId: string, events: readonly LoggedEvent[]): Entry {
    const first = events[0]?.event;
    const start = first?.type === 'InputFaulted' ? first.cause : first;
    if (start?.type !== 'SagaStarted') {
      return this.#unusable(
        sagaId,
        new ReplayDivergence(`The stream of saga ${sagaId} does not begin with a start.`),
      );
    }
    const definition = this.#deps.registry.get(start.definition, start.definitionVersion);
    if (definition === undefined) {
      const error = new SagaxError(
        'DEFINITION_UNKNOWN',
        `This process does not know ${start.definition}@${start.definitionVersion}, which saga ${sagaId} runs on. ` +
          'Deploy it again beside the newer one, then redrive this message.',
      );
      return this.#unusable(sagaId, error);
    }
    const entry = this.#fold(sagaId, definition, events, null, 0);
    return entry instanceof SagaxError ? this.#unusable(sagaId, entry) : entry;
  }

  #fold(
    sagaId: string,
    definition: AnyDefinition,
    events: readonly LoggedEvent[],
    from: SagaState | null,
    snapshotVersion: number,
  ): Entry | ReplayDivergence {
    try {
      const state = fold(definition, sagaId, events, from);
      if (state === null) return { kind: 'absent' };
      if (state.expected.length > 0)
        return new ReplayDivergence(`Saga ${sagaId}: the log ends in the middle of a turn.`);
      const last = events.at(-1);
      if (last !== undefined && last.streamVersion !== state.streamVersion)
        return new ReplayDivergence(`Saga ${sagaId}: the log has a gap (I1).`);
      return { kind: 'live', definition, state, wakeAt: undefined, snapshotVersion };
    } catch (error) {
      return error instanceof ReplayDivergence
        ? error
        : new ReplayDivergence(`Saga ${sagaId} can't be replayed: ${String(error)}`);
    }
  }

  #unusable(sagaId: string, error: SagaxError): Entry {
    if (error.code === 'REPLAY_DIVERGED') this.#deps.telemetry.count('replay_divergences_total');
    this.#deps.telemetry.log.error(
      { sagaId, err: error },
      'a saga is stopped: its log can not be replayed',
    );
    return { kind: 'unusable', error };
  }
}

/** SHA-256 over the state's shape and canonical JSON, hex. */
export function stateHash(state: SagaState): string {
  return createHash('sha256')
    .update(`${STATE_SHAPE}${canonicalJson(state)}`)
    .digest('hex');
}

/**
 * A state as it was before it was kept: jsonb sorts keys, and the order of regions is shown to users.
 * @param state as parsed from a snapshot whose hashes fit
 */
export function restoreState({ machine }: AnyDefinition, state: SagaState): SagaState {
  if (state.machine === null) return state;
  return { ...state, machine: inMachineOrder(machine, state.machine) };
}

export function snapshotOf(definition: AnyDefinition, state: SagaState): SagaSnapshot {
  return {
    sagaId: state.sagaId,
    streamVersion: state.streamVersion,
    definitionHash: definition.hash,
    stateHash: stateHash(state),
    state: state as unknown as Json,
  };
}
