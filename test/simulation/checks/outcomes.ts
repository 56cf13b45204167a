/** Checks of what became of it all: I9, I12, and defects that the runtime reported of itself. */
import { evolve } from '../../../engine/core/evolve.ts';
import { canonicalJson } from '../../../engine/core/json.ts';
import type { SagaState } from '../../../engine/core/state.ts';
import { stateHash } from '../../../engine/runtime/saga-store.ts';
import { summaryOf } from '../../../engine/runtime/batch.ts';
import type { AnyDefinition } from '../../../engine/core/define.ts';
import type { LoggedEvent } from '../../../engine/core/events.ts';
import type { SagaSummary } from '../../../engine/ports.ts';
import type { Evidence, Violation } from '../evidence.ts';

/** I9: for every k the fold of the first k events is the state that was live at k, with the effects that were logged. */
export function checkI9(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const live = liveStates(evidence);
  for (const [sagaId, events] of evidence.streams) {
    try {
      replay(sagaId, events, evidence.definitions, live.get(sagaId) ?? new Map(), (what) =>
        found.push({ invariant: 'I9', sagaId, what }),
      );
    } catch (error) {
      found.push({ invariant: 'I9', sagaId, what: `the replay failed: ${String(error)}` });
    }
  }
  for (const { code, reason, key } of evidence.deadLetters) {
    if (code === 'REPLAY_DIVERGED') found.push({ invariant: 'I9', sagaId: key, what: reason });
  }
  return found;
}

interface Live {
  summary?: SagaSummary;
  stateHash?: string;
}

/** By saga and stream version: what the engine had in memory when it wrote that version. */
function liveStates({ entries }: Evidence): Map<string, Map<number, Live>> {
  const live = new Map<string, Map<number, Live>>();
  const at = (sagaId: string, version: number): Live => {
    const versions = live.get(sagaId) ?? new Map<number, Live>();
    live.set(sagaId, versions);
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
  return live;
}

function replay(
  sagaId: string,
  events: readonly LoggedEvent[],
  definitions: readonly AnyDefinition[],
  live: ReadonlyMap<number, Live>,
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
  for (const { event, at, streamVersion } of events) {
    state = evolve(definition, sagaId, state, event, at);
    const was = live.get(streamVersion);
    if (was?.stateHash !== undefined && stateHash(state) !== was.stateHash) {
      complain(`the state at version ${streamVersion} is not the one that was kept as a snapshot`);
    }
    if (was?.summary === undefined) continue;
    const replayed = canonicalJson(summaryOf(state));
    const lived = canonicalJson(was.summary);
    if (replayed !== lived) {
      complain(`at version ${streamVersion} it was ${lived}, the replay gives ${replayed}`);
    }
  }
  if (state !== null && state.expected.length > 0) complain('the log ends in the middle of a turn');
}

/** I12: every saga is completed, compensated, or stuck for a reason that is shown. */
export function checkI12({ streams, summaries }: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, events] of streams) {
    const add = (what: string): void => void found.push({ invariant: 'I12', sagaId, what });
    const summary = summaries.get(sagaId);
    if (summary === undefined) {
      add('the saga has no summary');
      continue;
    }
    const last = events.at(-1)?.event.type;
    const ended = last === 'SagaCompleted' || last === 'SagaCompensated';
    if (ended) {
      const wanted = last === 'SagaCompleted' ? 'completed' : 'compensated';
      if (summary.status !== wanted) add(`it ended as ${wanted} and is shown as ${summary.status}`);
    } else if (summary.status !== 'stuck') {
      add(`it is ${summary.status} in "${summary.state}" for ever; its last event is ${last}`);
    } else {
      const reasons = stuckFor(events);
      if (!reasons.some((code) => code === summary.failureCode)) {
        add(
          `it is stuck for ${reasons.join(', ') || 'no reason'}; shown is ${summary.failureCode}`,
        );
      }
    }
  }
  return found;
}

/** Codes of the failures with which commands (or the input) got stuck and have not come unstuck. */
function stuckFor(events: readonly LoggedEvent[]): string[] {
  const stuck = new Map<string, string>();
  for (const { event } of events) {
    if (event.type === 'SagaStuck') stuck.set(event.commandId ?? 'input', event.failure.code);
    if (event.type === 'SagaUnstuck') stuck.delete(event.commandId ?? 'input');
  }
  return [...stuck.values()];
}

/** What the runtime logged as an error, or parked as its own defect. */
export function checkDefects({ defects, deadLetters }: Evidence): Violation[] {
  return [
    ...defects.map((what): Violation => ({ invariant: 'defect', sagaId: null, what })),
    ...deadLetters
      .filter(({ code }) => code === 'INTERNAL')
      .map(({ key, reason }): Violation => ({ invariant: 'defect', sagaId: key, what: reason })),
  ];
}
