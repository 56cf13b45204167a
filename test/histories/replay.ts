/**
 * Replays a recorded history through this build, and says what is not as it was.
 *
 * Guards I9 over time: each prefix folds to the state that was live then, each cause gives the effects that were
 * logged, a snapshot taken anywhere goes on to the same, and the runtime's own loader takes the stream.
 */
import { TERMINAL_EVENTS, type LoggedEvent } from '../../engine/core/events.ts';
import { evolve, isCause } from '../../engine/core/evolve.ts';
import { canonicalJson } from '../../engine/core/json.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { SagaState } from '../../engine/core/state.ts';
import type { EventLog } from '../../engine/ports.ts';
import { summaryOf } from '../../engine/runtime/batch.ts';
import { createRegistry } from '../../engine/runtime/registry.ts';
import { restoreState, SagaStore, stateHash } from '../../engine/runtime/saga-store.ts';
import { silentTelemetry } from '../../engine/runtime/telemetry.ts';
import type { History } from './format.ts';

/** @returns what differs, in words; none when this build gives what was */
export async function replayHistory(
  history: History,
  definitions: readonly AnyDefinition[],
): Promise<string[]> {
  const { head } = history;
  const definition = definitions.find(
    ({ name, version }) => name === head.definition && version === head.definitionVersion,
  );
  if (definition === undefined) {
    return [
      `${head.definition}@${head.definitionVersion} is not known any more. As long as its sagas may live it must stay, beside newer versions.`,
    ];
  }
  try {
    const state = foldAll(history, definition);
    if (typeof state === 'string') return [state];
    return [...endOf(history, state), ...(await loadAll(history, definition, state))];
  } catch (error) {
    return [`the replay failed: ${String(error)}`];
  }
}

/** @returns the last state, or what is wrong */
function foldAll({ head, lines }: History, definition: AnyDefinition): SagaState | string {
  let state: SagaState | null = null;
  for (const [index, { version, at, event, stateHash: recorded }] of lines.entries()) {
    if (version !== index + 1) return `line ${index + 2} has version ${version} (I1)`;
    if (state !== null && state.expected.length === 0 && !isCause(event)) {
      return `${event.type} at version ${version} follows from nothing`;
    }
    const next: SagaState = evolve(definition, head.sagaId, state, event, at);
    if (stateHash(next) !== recorded) {
      return (
        `at version ${version} (${event.type}) the state is not the one that was live. If SagaState was changed on purpose, ` +
        'raise STATE_SHAPE and run npm run histories -- --rehash; events must stay as they are.'
      );
    }
    if (state !== null && differsFromSnapshot(state, { definition, event, at, recorded })) {
      return `from a snapshot of version ${version - 1} another state follows`;
    }
    state = next;
  }
  return state ?? 'it has no events';
}

function differsFromSnapshot(
  state: SagaState,
  next: { definition: AnyDefinition; event: LoggedEvent['event']; at: number; recorded: string },
): boolean {
  const { definition, event, at, recorded } = next;
  const kept = JSON.parse(canonicalJson(state)) as SagaState;
  const restored = restoreState(definition, kept);
  return stateHash(evolve(definition, state.sagaId, restored, event, at)) !== recorded;
}

function endOf({ end }: History, state: SagaState): string[] {
  if (state.expected.length > 0) return ['it ends in the middle of a turn'];
  const shown = canonicalJson(summaryOf(state));
  const recorded = canonicalJson(end);
  return shown === recorded ? [] : [`it ended as ${recorded}, and is now shown as ${shown}`];
}

/** As a shard takes a saga over: all of it, and all but what ended it. */
async function loadAll(
  history: History,
  definition: AnyDefinition,
  state: SagaState,
): Promise<string[]> {
  const events = history.lines.map(({ version, at, event }): LoggedEvent => ({
    sagaId: state.sagaId,
    namespace: state.namespace,
    streamVersion: version,
    shard: 0,
    shardSeq: version,
    epoch: 1,
    at,
    event,
  }));
  const last = events.at(-1)?.event.type;
  const isEnded = last !== undefined && TERMINAL_EVENTS.has(last);
  const whole = await load(events, definition);
  if (whole !== (isEnded ? 'ended' : stateHash(state)))
    return [`the whole stream loads as ${whole}`];
  const lastCause = events.findLastIndex(({ event }) => isCause(event));
  const before = history.lines[lastCause - 1];
  if (before === undefined) return [];
  const without = await load(events.slice(0, lastCause), definition);
  return without === before.stateHash
    ? []
    : [`the stream up to version ${before.version} loads as ${without}`];
}

/** @returns the hash of the state that the runtime's store gives, or the kind of what it gives else */
async function load(events: LoggedEvent[], definition: AnyDefinition): Promise<string> {
  const sagaId = events[0]?.sagaId ?? '';
  const refuse = (): never => {
    throw new Error('a replay only loads');
  };
  const eventLog: EventLog = {
    load: () => Promise.resolve(new Map([[sagaId, { snapshot: null, events }]])),
    append: refuse,
    readOutbox: refuse,
    dueWakeups: refuse,
  };
  const store = new SagaStore({
    eventLog,
    registry: createRegistry([definition]),
    telemetry: silentTelemetry,
    capacity: 1,
  });
  const entry = (await store.get(new Set([sagaId]))).get(sagaId);
  if (entry?.kind === 'live') return stateHash(entry.state);
  return entry?.kind === 'unusable' ? entry.error.message : String(entry?.kind);
}
