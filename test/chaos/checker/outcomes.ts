/** The check of what became of it all: I12, and that the summaries say what the log says. */
import {
  isTerminal,
  streamsOf,
  textIn,
  type EventRow,
  type Evidence,
  type Violation,
} from './evidence.ts';

/** I12: after faults every saga is completed, compensated, or stuck for a reason that is shown. */
export function checkI12(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const sagas = new Map(evidence.sagas.map((row) => [row.sagaId, row]));
  const asleep = new Set(evidence.wakeups.map(({ sagaId }) => sagaId));
  for (const [sagaId, events] of streamsOf(evidence)) {
    const add = (what: string): void => void found.push({ invariant: 'I12', sagaId, what });
    const row = sagas.get(sagaId);
    sagas.delete(sagaId);
    if (row === undefined) {
      add('the saga has no row in sagas');
      continue;
    }
    if (row.streamVersion !== events.length)
      add(`its row is at version ${row.streamVersion}, its stream at ${events.length}`);
    const last = events.at(-1)?.type ?? '';
    if (isTerminal(last)) {
      const wanted = last === 'SagaCompleted' ? 'completed' : 'compensated';
      if (row.status !== wanted) add(`it ended as ${wanted} and is shown as ${row.status}`);
      if (row.endedAtMs === null) add('it ended, and its row has no time of that');
      if (asleep.has(sagaId)) add('it has ended, and is still to be woken up');
    } else if (row.status !== 'stuck') {
      add(`it is ${row.status} in "${row.state}" for ever; its last event is ${last}`);
    } else {
      const reasons = stuckFor(events);
      if (!reasons.some((code) => code === row.failureCode))
        add(`it is stuck for ${reasons.join(', ') || 'no reason'}; shown is ${row.failureCode}`);
    }
  }
  for (const sagaId of sagas.keys())
    found.push({ invariant: 'I12', sagaId, what: 'there is a row in sagas, and no event' });
  return found;
}

/** Codes of the failures with which commands (or the input) got stuck and have not come unstuck. */
function stuckFor(events: readonly EventRow[]): string[] {
  const stuck = new Map<string, string>();
  for (const { event } of events) {
    const what = typeof event['commandId'] === 'string' ? textIn(event, 'commandId') : 'input';
    if (event.type === 'SagaStuck') stuck.set(what, (event['failure'] as { code: string }).code);
    if (event.type === 'SagaUnstuck') stuck.delete(what);
  }
  return [...stuck.values()];
}
