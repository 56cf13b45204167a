/**
 * The check of I9: every stream is folded anew, event by event, and compared with what was live.
 *
 * At every k: the state at each end of a decision is, hash for hash, the one that the shard held; each that
 * was read back (from the log, or from a snapshot) as well; within a decision, what the fold expects next is
 * what the log has next. This is the one check that uses the engine's own `evolve`: it is about it.
 */
import { evolve, isCause } from '../../../engine/core/evolve.ts';
import { canonicalJson } from '../../../engine/core/json.ts';
import type { AnyDefinition } from '../../../engine/core/define.ts';
import type { LoggedEvent } from '../../../engine/core/events.ts';
import type { SagaState } from '../../../engine/core/state.ts';
import type { SagaSummary } from '../../../engine/ports.ts';
import { restoreState, stateHash } from '../../../engine/runtime/saga-store.ts';
import { summaryOf } from '../../../engine/runtime/batch.ts';
import type { Evidence, Violation } from '../evidence.ts';
import { freeze, type LiveState } from '../witness.ts';

/** Every so many events the fold goes on from what a snapshot of its state would give back. */
const SNAPSHOT_EVERY = 5;

/** I9: for every k the fold of the first k events is the state that was live at k, with the effects that were logged. */
export function checkI9(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const kept = keptStates(evidence);
  for (const [sagaId, events] of evidence.streams) {
    const complain = (what: string): void => void found.push({ invariant: 'I9', sagaId, what });
    try {
      const live = byVersion(evidence.live.get(sagaId) ?? []);
      replay(sagaId, events, evidence.definitions, { kept: kept.get(sagaId), live }, complain);
    } catch (error) {
      complain(`the replay failed: ${String(error)}`);
    }
  }
  for (const { code, reason, key } of evidence.deadLetters) {
    if (code === 'REPLAY_DIVERGED') found.push({ invariant: 'I9', sagaId: key, what: reason });
  }
  return found;
}

interface Kept {
  summary?: SagaSummary;
  stateHash?: string;
}

/** By saga and stream version: what was written beside the events. */
function keptStates({ entries }: Evidence): Map<string, Map<number, Kept>> {
  const kept = new Map<string, Map<number, Kept>>();
  const at = (sagaId: string, version: number): Kept => {
    const versions = kept.get(sagaId) ?? new Map<number, Kept>();
    kept.set(sagaId, versions);
    const state = versions.get(version) ?? {};
    versions.set(version, state);
    return state;
  };
  for (const entry of entries) {
    if (entry.kind !== 'appended') continue;
    for (const summary of entry.summaries) {
      at(summary.sagaId, summary.streamVersion).summary = summary;
    }
    for (const { sagaId, streamVersion, stateHash: hash } of entry.snapshots) {
      at(sagaId, streamVersion).stateHash = hash;
    }
  }
  return kept;
}

function byVersion(states: readonly LiveState[]): Map<number, LiveState[]> {
  const versions = new Map<number, LiveState[]>();
  for (const state of states) {
    versions.set(state.version, [...(versions.get(state.version) ?? []), state]);
  }
  return versions;
}

interface Was {
  kept: ReadonlyMap<number, Kept> | undefined;
  live: ReadonlyMap<number, readonly LiveState[]>;
}

function replay(
  sagaId: string,
  events: readonly LoggedEvent[],
  definitions: readonly AnyDefinition[],
  was: Was,
  complain: (what: string) => void,
): void {
  const first = events[0]?.event;
  const start = first?.type === 'InputFaulted' ? first.cause : first;
  if (start?.type !== 'SagaStarted') return complain(`the stream begins with ${first?.type}`);
  const definition = definitions.find(
    ({ name, version }) => name === start.definition && version === start.definitionVersion,
  );
  if (definition === undefined) return complain(`there is no definition ${start.definition}`);
  let state: SagaState | null = null;
  /** Version up to which a decision is known that was committed with it. */
  let decided = 0;
  for (const [index, { event, at, streamVersion }] of events.entries()) {
    state = evolve(definition, sagaId, state, event, at);
    // Whoever changes the state of an earlier k when folding a later one is stopped here.
    freeze(state);
    compareKept(state, was.kept?.get(streamVersion), complain);
    const live = was.live.get(streamVersion) ?? [];
    if (live.some(({ origin }) => origin === 'decided')) decided = streamVersion;
    compareLive(state, live, complain);
    const next = events[index + 1]?.event;
    if (state.expected.length > 0) {
      const wanted = canonicalJson(state.expected[0]);
      if (next === undefined || canonicalJson(next) !== wanted) {
        complain(`at version ${streamVersion} the replay goes on with ${wanted}, the log does not`);
      }
    } else if (next !== undefined && !isCause(next)) {
      complain(`${next.type} at version ${streamVersion + 1} follows from nothing`);
    } else if (streamVersion % SNAPSHOT_EVERY === 0) {
      state = restoreState(definition, JSON.parse(canonicalJson(state)) as SagaState);
    }
  }
  if (decided !== events.length) {
    complain(`what was live at version ${events.length} is not known; only up to ${decided}`);
  }
}

function compareKept(
  state: SagaState,
  kept: Kept | undefined,
  complain: (what: string) => void,
): void {
  const { streamVersion } = state;
  if (kept?.stateHash !== undefined && stateHash(state) !== kept.stateHash) {
    complain(`the state at version ${streamVersion} is not the one that was kept as a snapshot`);
  }
  if (kept?.summary === undefined) return;
  const replayed = canonicalJson(summaryOf(state));
  const lived = canonicalJson(kept.summary);
  if (replayed !== lived) {
    complain(`at version ${streamVersion} it was ${lived}, the replay gives ${replayed}`);
  }
}

function compareLive(
  state: SagaState,
  live: readonly LiveState[],
  complain: (what: string) => void,
): void {
  if (live.length === 0) return;
  const hash = stateHash(state);
  for (const { origin, hash: lived } of live) {
    if (lived === hash) continue;
    complain(
      `the state that was ${origin} at version ${state.streamVersion} is not the replayed one`,
    );
  }
}
