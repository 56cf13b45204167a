/** Checks of what became of it all: I12, and defects that the runtime reported of itself. */
import type { LoggedEvent } from '../../../engine/core/events.ts';
import type { Evidence, Violation } from '../evidence.ts';

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
