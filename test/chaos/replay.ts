/**
 * I9 over a run: every saga of the log is folded again by the engine's own code.
 *
 * Guards that for every k the fold of the first k events is what one gets by folding one event after another
 * (and as was kept in a snapshot), that the effects that come out are those that were logged, and that
 * the row of the saga is what the last state says. It uses the engine's `evolve`, since I9 is about it.
 */
import pg from 'pg';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { evolve, fold } from '../../engine/core/evolve.ts';
import { canonicalJson } from '../../engine/core/json.ts';
import type { SagaState } from '../../engine/core/state.ts';
import { summaryOf } from '../../engine/runtime/batch.ts';
import { stateHash } from '../../engine/runtime/saga-store.ts';
import { streamsOf, type Evidence, type Violation } from './checker/evidence.ts';

/** A state that was kept while the saga was live. */
export interface KeptState {
  sagaId: string;
  streamVersion: number;
  stateHash: string;
}

/** @param logUrls all databases of the log */
export async function readKeptStates(logUrls: readonly string[]): Promise<KeptState[]> {
  const found: KeptState[] = [];
  for (const connectionString of logUrls) {
    const client = new pg.Client({ connectionString });
    await client.connect();
    try {
      const { rows } = await client.query<KeptState>(
        `SELECT saga_id::text AS "sagaId", stream_version AS "streamVersion", state_hash AS "stateHash" FROM sagax.snapshots`,
      );
      found.push(...rows);
    } finally {
      await client.end();
    }
  }
  return found;
}

/** @returns what breaks I9 */
export function checkReplay(
  evidence: Evidence,
  definitions: readonly AnyDefinition[],
  kept: readonly KeptState[],
): Violation[] {
  const found: Violation[] = [];
  for (const [sagaId, rows] of streamsOf(evidence)) {
    const events = rows.map(({ event, atMs }) => ({ event: event as SagaEvent, at: atMs }));
    const row = evidence.sagas.find((one) => one.sagaId === sagaId);
    const hashes = new Map(
      kept.filter((one) => one.sagaId === sagaId).map((one) => [one.streamVersion, one.stateHash]),
    );
    const add = (what: string): void => void found.push({ invariant: 'I9', sagaId, what });
    try {
      const state = foldAll(sagaId, events, definitions, hashes, add);
      if (state.expected.length > 0) add('the log ends in the middle of a turn');
      const summary = summaryOf(state);
      const shown = row && [
        row.status,
        row.state,
        row.streamVersion,
        row.failureCode,
        row.endedAtMs,
      ];
      const folded = [
        summary.status,
        summary.state,
        summary.streamVersion,
        summary.failureCode,
        summary.endedAt,
      ];
      if (canonicalJson(folded) !== canonicalJson(shown ?? null))
        add(
          `its row says ${JSON.stringify(shown)}, the fold of its events ${JSON.stringify(folded)}`,
        );
    } catch (error) {
      add(`the replay failed: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  for (const { code, reason } of evidence.deadLetters)
    if (code === 'REPLAY_DIVERGED') found.push({ invariant: 'I9', sagaId: null, what: reason });
  return found;
}

function foldAll(
  sagaId: string,
  events: readonly { event: SagaEvent; at: number }[],
  definitions: readonly AnyDefinition[],
  hashes: ReadonlyMap<number, string>,
  complain: (what: string) => void,
): SagaState {
  const first = events[0]?.event;
  const start = first?.type === 'InputFaulted' ? first.cause : first;
  if (start?.type !== 'SagaStarted') throw new Error(`the stream begins with ${first?.type}`);
  const definition = definitions.find(
    ({ name, version }) => name === start.definition && version === start.definitionVersion,
  );
  if (definition === undefined) throw new Error(`there is no definition ${start.definition}`);
  let state: SagaState | null = null;
  for (const [index, { event, at }] of events.entries()) {
    state = evolve(definition, sagaId, state, event, at);
    const version = index + 1;
    const whole = fold(definition, sagaId, events.slice(0, version));
    if (whole === null || stateHash(whole) !== stateHash(state))
      complain(`the fold of the first ${version} events is not the state at version ${version}`);
    const was = hashes.get(version);
    if (was !== undefined && was !== stateHash(state))
      complain(`the state at version ${version} is not the one that was kept as a snapshot`);
  }
  if (state === null) throw new Error('the stream is empty');
  return state;
}
