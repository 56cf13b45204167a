/** Checks of what was done and taken back: I6, I7, I8. Read from streams and ledgers alone. */
import {
  storyOf,
  type Evidence,
  type SagaStory,
  type StepStory,
  type Violation,
} from '../evidence.ts';

function stories({ streams }: Evidence): SagaStory[] {
  return [...streams].map(([sagaId, events]) => storyOf(sagaId, events));
}

function owes(step: StepStory): boolean {
  return step.class === 'compensatable';
}

/** I6: compensated is exactly what was done or may have been done, in reverse of the partial order. */
export function checkI6(evidence: Evidence): Violation[] {
  return stories(evidence).flatMap((story) => {
    const found = [
      ...compensatedWrongly(story),
      ...leftBehind(story),
      ...outOfOrder(story),
      ...ledgerMisfits(story, evidence),
    ];
    return found.map((what): Violation => ({ invariant: 'I6', sagaId: story.sagaId, what }));
  });
}

interface Phase {
  from: number;
  to: number;
  /** Ended by CompensationDone; a machine may also leave it on a signal and go forward again. */
  isDone: boolean;
}

/** Versions between which the saga compensates as a whole. */
function phasesOf({ events }: SagaStory): Phase[] {
  const phases: Phase[] = [];
  for (const { event, streamVersion } of events) {
    if (event.type === 'CompensationStarted') {
      phases.push({ from: streamVersion, to: Infinity, isDone: false });
    }
    const open = phases.at(-1);
    if (open === undefined || open.to !== Infinity) continue;
    if (event.type !== 'CompensationDone' && event.type !== 'StepRequested') continue;
    open.to = streamVersion;
    open.isDone = event.type === 'CompensationDone';
  }
  return phases;
}

function compensatedWrongly(story: SagaStory): string[] {
  const phases = phasesOf(story);
  const found: string[] = [];
  const asked = new Set<string>();
  for (const { event, streamVersion } of story.events) {
    if (event.type !== 'CompensationRequested') continue;
    const step = story.steps.find(({ id }) => id === event.of);
    if (asked.has(event.of)) found.push(`the compensation of ${event.of} was requested twice`);
    asked.add(event.of);
    if (step === undefined || !owes(step)) {
      found.push(`${event.of} was compensated, but is no compensatable step`);
    } else if (step.done === undefined || step.done > streamVersion) {
      found.push(`${event.of} was compensated, but was not known to be done`);
    } else if (step.givenUp === undefined) {
      const inPhase = phases.some(({ from, to }) => from < streamVersion && streamVersion < to);
      if (!inPhase) found.push(`${event.of} was compensated while the saga went forward`);
    }
  }
  return found;
}

/** What is owed must be gone at the end of a compensation, and at the end of the saga. */
function leftBehind(story: SagaStory): string[] {
  const found: string[] = [];
  const ends = phasesOf(story).filter(({ isDone }) => isDone);
  for (const step of story.steps.filter(owes)) {
    const end = ends.find(({ to }) => step.requested < to);
    if (end !== undefined && !isGone(step, end.to)) {
      found.push(`${step.id} was still owed when the compensation ended at version ${end.to}`);
    }
    const { terminal } = story;
    if (terminal === null) continue;
    const mustBeGone = terminal.type === 'SagaCompensated' || step.givenUp !== undefined;
    if (mustBeGone && !isGone(step, terminal.version)) {
      found.push(`${step.id} was still owed when the saga ended`);
    }
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
    const inPhase = phases.some(({ from, to }) => from < start && start < to);
    for (const b of story.steps.filter(owes)) {
      const after = b.requested > a.done && b.requested < start;
      const counts = inPhase || (b.givenUp !== undefined && b.givenUp < start);
      if (after && counts && !isGone(b, start)) {
        found.push(`${a.id} was compensated before ${b.id}, which was requested after it was done`);
      }
    }
  }
  return found;
}

/** What participants really did must balance: each effect taken back once, or left alone. */
function ledgerMisfits(story: SagaStory, { ledger }: Evidence): string[] {
  if (story.terminal === null) return [];
  const found: string[] = [];
  for (const step of story.steps.filter(owes)) {
    if (step.byHand || step.compensatedByHand) continue;
    const done = ledger.get(step.id)?.count ?? 0;
    const undone = ledger.get(`${step.id}.c`)?.count ?? 0;
    const wanted = step.compensated === undefined ? 0 : done;
    if (undone !== wanted) {
      found.push(`${step.id} took effect ${done} times and was taken back ${undone} times`);
    }
    if (step.compensated === undefined && step.givenUp !== undefined && done > 0) {
      found.push(`${step.id} was given up, took effect, and was never taken back`);
    }
    // What was begun after its compensation had been asked for has no order with it.
    const later = story.steps.filter(
      (b) => owes(b) && inside(b.requested, step.done ?? Infinity, step.compensationRequested ?? 0),
    );
    for (const b of later) {
      const [mine, its] = [ledger.get(`${step.id}.c`)?.at, ledger.get(`${b.id}.c`)?.at];
      const together = phasesOf(story).some(
        ({ from, to }) =>
          inside(step.compensationRequested, from, to) && inside(b.compensationRequested, from, to),
      );
      if (together && mine !== undefined && its !== undefined && mine < its) {
        found.push(`at the participants ${step.id} was taken back before ${b.id}`);
      }
    }
  }
  return found;
}

function inside(version: number | undefined, from: number, to: number): boolean {
  return version !== undefined && from < version && version < to;
}

/** I7: past the pivot nothing that was agreed is compensated, and cancel is refused. */
export function checkI7(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const story of stories(evidence)) {
    const passed = story.pivotPassed;
    if (passed === null) continue;
    const add = (what: string): void =>
      void found.push({ invariant: 'I7', sagaId: story.sagaId, what });
    story.events.forEach(({ event, streamVersion }, index) => {
      if (streamVersion <= passed) return;
      if (event.type === 'CompensationStarted') add('a compensation was begun past the pivot');
      if (event.type === 'SagaCompensated') add('the saga ended as compensated past its pivot');
      if (event.type === 'CancelRequested') {
        const answer = story.events[index + 1]?.event.type;
        if (answer !== 'CancelRefused') add(`a cancel past the pivot was answered by ${answer}`);
      }
    });
    for (const step of story.steps.filter(owes)) {
      const requested = step.compensationRequested ?? 0;
      if (requested > passed && step.givenUp === undefined) {
        add(`${step.id} was compensated past the pivot`);
      }
      const agreed = step.done !== undefined && step.done < passed && step.givenUp === undefined;
      if (agreed && requested === 0 && (evidence.ledger.get(`${step.id}.c`)?.count ?? 0) > 0) {
        add(`the participant took ${step.id} back though the pivot has passed`);
      }
    }
  }
  return found;
}

/** I8: each command's effect is applied exactly once when it succeeded, and not at all when it didn't. */
export function checkI8(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  for (const [id, { count }] of evidence.ledger) {
    if (count > 1) {
      found.push({
        invariant: 'I8',
        sagaId: id.split('.')[0] ?? null,
        what: `${id} took effect ${count} times`,
      });
    }
  }
  for (const story of stories(evidence)) {
    for (const step of story.steps) {
      if (step.byHand) continue;
      const count = evidence.ledger.get(step.id)?.count ?? 0;
      const isDone = step.done !== undefined;
      if (isDone && count === 0) {
        const what = `${step.id} is logged as done, but never took effect`;
        found.push({ invariant: 'I8', sagaId: story.sagaId, what });
      }
      if (step.closed !== undefined && count > 0) {
        const what = `${step.id} is logged as rejected or never run, but took effect`;
        found.push({ invariant: 'I8', sagaId: story.sagaId, what });
      }
    }
  }
  return found;
}
