/** Checks of what was done and taken back: I6, I7, I8. Read from streams, ledgers and inboxes. */
import { inside, phasesOf, storiesOf, type SagaStory, type StepStory } from './stories.ts';
import { textIn, type Evidence, type Violation } from './evidence.ts';

const owes = (step: StepStory): boolean => step.class === 'compensatable';

/** What participants did, by command: how often, and when last, in the order of all effects. */
type Ledger = ReadonlyMap<string, { count: number; last: number }>;

function ledgerOf({ effects }: Evidence): Ledger {
  const ledger = new Map<string, { count: number; last: number }>();
  for (const { commandId, n } of effects) {
    const entry = ledger.get(commandId) ?? { count: 0, last: 0 };
    ledger.set(commandId, { count: entry.count + 1, last: Math.max(entry.last, n) });
  }
  return ledger;
}

/** I6: compensated is exactly what was done or may have been done, in reverse of the partial order. */
export function checkI6(evidence: Evidence): Violation[] {
  const ledger = ledgerOf(evidence);
  return storiesOf(evidence).flatMap((story) =>
    [
      ...compensatedWrongly(story),
      ...leftBehind(story),
      ...outOfOrder(story),
      ...misfitsOf(story, ledger),
    ].map((what): Violation => ({ invariant: 'I6', sagaId: story.sagaId, what })),
  );
}

function compensatedWrongly(story: SagaStory): string[] {
  const phases = phasesOf(story);
  const found: string[] = [];
  const asked = new Set<string>();
  for (const { event, streamVersion } of story.events) {
    if (event.type !== 'CompensationRequested') continue;
    const of = textIn(event, 'of');
    const step = story.steps.find(({ id }) => id === of);
    if (asked.has(of)) found.push(`the compensation of ${of} was requested twice`);
    asked.add(of);
    if (step === undefined || !owes(step)) {
      found.push(`${of} was compensated, but is no compensatable step`);
    } else if (step.done === undefined || step.done > streamVersion) {
      found.push(`${of} was compensated, but was not known to be done`);
    } else if (step.givenUp === undefined && !phases.some((one) => inside(streamVersion, one))) {
      found.push(`${of} was compensated while the saga went forward`);
    }
  }
  return found;
}

/** What is owed must be gone at the end of a compensation, and at the end of the saga. */
function leftBehind(story: SagaStory): string[] {
  const found: string[] = [];
  const ends = phasesOf(story).filter(({ to }) => to !== Infinity);
  for (const step of story.steps.filter(owes)) {
    const end = ends.find(({ to }) => step.requested < to);
    if (end !== undefined && !isGone(step, end.to))
      found.push(`${step.id} was still owed when the compensation ended at version ${end.to}`);
    const { terminal } = story;
    if (terminal === null) continue;
    const mustBeGone = terminal.type === 'SagaCompensated' || step.givenUp !== undefined;
    if (mustBeGone && !isGone(step, terminal.version))
      found.push(`${step.id} was still owed when the saga ended`);
  }
  return found;
}

function isGone(step: StepStory, version: number): boolean {
  return (step.compensated ?? step.closed ?? Infinity) < version;
}

function outOfOrder(story: SagaStory): string[] {
  const found: string[] = [];
  const phases = phasesOf(story);
  for (const a of story.steps.filter(owes)) {
    const start = a.compensationRequested;
    if (start === undefined || a.done === undefined) continue;
    const inPhase = phases.some((phase) => inside(start, phase));
    for (const b of story.steps.filter(owes)) {
      const isAfter = b.requested > a.done && b.requested < start;
      const counts = inPhase || (b.givenUp !== undefined && b.givenUp < start);
      if (isAfter && counts && !isGone(b, start))
        found.push(`${a.id} was compensated before ${b.id}, which was requested after it was done`);
    }
  }
  return found;
}

/** What participants really did must balance: each effect taken back once, or left alone. */
function misfitsOf(story: SagaStory, ledger: Ledger): string[] {
  if (story.terminal === null) return [];
  const found: string[] = [];
  for (const step of story.steps.filter(owes)) {
    if (step.byHand || step.compensatedByHand) continue;
    const done = ledger.get(step.id)?.count ?? 0;
    const undone = ledger.get(`${step.id}.c`)?.count ?? 0;
    if (undone !== (step.compensated === undefined ? 0 : done))
      found.push(`${step.id} took effect ${done} times and was taken back ${undone} times`);
    if (step.compensated === undefined && step.givenUp !== undefined && done > 0)
      found.push(`${step.id} was given up, took effect, and was never taken back`);
    const later = story.steps.filter((b) => owes(b) && b.requested > (step.done ?? Infinity));
    for (const b of later) {
      const mine = ledger.get(`${step.id}.c`)?.last ?? Infinity;
      const its = ledger.get(`${b.id}.c`)?.last ?? -Infinity;
      const isTogether = phasesOf(story).some(
        (phase) =>
          inside(step.compensationRequested, phase) && inside(b.compensationRequested, phase),
      );
      if (isTogether && mine < its)
        found.push(`at the participants ${step.id} was taken back before ${b.id}`);
    }
  }
  return found;
}

/** I7: past the pivot nothing that was agreed is compensated, and cancel is refused. */
export function checkI7(evidence: Evidence): Violation[] {
  const ledger = ledgerOf(evidence);
  const found: Violation[] = [];
  for (const story of storiesOf(evidence)) {
    const passed = story.pivotPassed;
    if (passed === null) continue;
    const add = (what: string): void =>
      void found.push({ invariant: 'I7', sagaId: story.sagaId, what });
    story.events.forEach(({ type, streamVersion }, index) => {
      if (streamVersion <= passed) return;
      if (type === 'CompensationStarted') add('a compensation was begun past the pivot');
      if (type === 'SagaCompensated') add('the saga ended as compensated past its pivot');
      if (type !== 'CancelRequested') return;
      const answer = story.events[index + 1]?.type;
      if (answer !== 'CancelRefused') add(`a cancel past the pivot was answered by ${answer}`);
    });
    for (const step of story.steps.filter(owes)) {
      const requested = step.compensationRequested ?? 0;
      if (requested > passed && step.givenUp === undefined)
        add(`${step.id} was compensated past the pivot`);
      const isAgreed = step.done !== undefined && step.done < passed && step.givenUp === undefined;
      if (isAgreed && requested === 0 && (ledger.get(`${step.id}.c`)?.count ?? 0) > 0)
        add(`the participant took ${step.id} back though the pivot has passed`);
    }
  }
  return found;
}

/** I8: a command that succeeded took effect exactly once, any other one not at all; and the books add up. */
export function checkI8(evidence: Evidence): Violation[] {
  const ledger = ledgerOf(evidence);
  const found: Violation[] = [];
  const add = (commandId: string, what: string): void =>
    void found.push({ invariant: 'I8', sagaId: commandId.split('.')[0] ?? null, what });
  for (const [id, { count }] of ledger) if (count > 1) add(id, `${id} took effect ${count} times`);
  for (const story of storiesOf(evidence)) {
    for (const step of story.steps) {
      if (step.byHand) continue;
      const count = ledger.get(step.id)?.count ?? 0;
      if (step.done !== undefined && count === 0)
        add(step.id, `${step.id} is logged as done, but never took effect`);
      if (step.closed !== undefined && count > 0)
        add(step.id, `${step.id} is logged as rejected or never run, but took effect`);
    }
  }
  found.push(...inboxMisfits(evidence, ledger), ...booksOff(evidence));
  return found;
}

/** A participant's inbox row and its change commit together. */
function inboxMisfits({ commandRows }: Evidence, ledger: Ledger): Violation[] {
  const found: Violation[] = [];
  const rows = new Map(commandRows.map((row) => [row.commandId, row]));
  const add = (commandId: string, what: string): void =>
    void found.push({ invariant: 'I8', sagaId: commandId.split('.')[0] ?? null, what });
  for (const { commandId, state, op, service } of commandRows) {
    const count = ledger.get(commandId)?.count ?? 0;
    // A compensation of what never ran is done by doing nothing.
    const mayBeEmpty =
      op === 'compensate' && (ledger.get(commandId.slice(0, -2))?.count ?? 0) === 0;
    if (state === 'done' && count === 0 && !mayBeEmpty)
      add(commandId, `${service} keeps ${commandId} as done, but it took no effect`);
    if ((state === 'rejected' || state === 'superseded') && count > 0)
      add(commandId, `${service} keeps ${commandId} as ${state}, but it took effect`);
  }
  for (const id of ledger.keys())
    if (!rows.has(id)) add(id, `${id} took effect, but its participant has no row for it`);
  return found;
}

function booksOff({ books }: Evidence): Violation[] {
  return books
    .filter(({ opening, closing }) => opening !== closing)
    .map(({ service, item, opening, closing }) => ({
      invariant: 'I8',
      sagaId: null,
      what: `the books of ${service} for ${item} added up to ${opening}, and now to ${closing}`,
    }));
}
