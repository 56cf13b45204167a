/** A stream read into what happened to each of its steps. Numbers are stream versions. */
import {
  stepOf,
  streamsOf,
  textIn,
  type EventBody,
  type EventRow,
  type Evidence,
} from './evidence.ts';

export interface StepStory {
  id: string;
  class: string;
  requested: number;
  /** Its success became known. */
  done?: number;
  /** It was rejected, or settled as never having run. */
  closed?: number;
  /** The machine stopped waiting for it. */
  givenUp?: number;
  compensationRequested?: number;
  compensated?: number;
  /** A person decided about the step, its settlement or its compensation. */
  byHand: boolean;
  compensatedByHand: boolean;
}

export interface SagaStory {
  sagaId: string;
  events: readonly EventRow[];
  steps: StepStory[];
  /** Version at which the pivot's success became known. */
  pivotPassed: number | null;
  terminal: { version: number; type: string } | null;
}

export function storiesOf(evidence: Evidence): SagaStory[] {
  return [...streamsOf(evidence)].map(([sagaId, events]) => storyOf(sagaId, events));
}

function storyOf(sagaId: string, events: readonly EventRow[]): SagaStory {
  const steps = new Map<string, StepStory>();
  const story: SagaStory = { sagaId, events, steps: [], pivotPassed: null, terminal: null };
  for (const { event, streamVersion } of events) {
    if (event.type === 'StepRequested') {
      const id = textIn(event, 'commandId');
      steps.set(id, {
        id,
        class: textIn(event, 'class'),
        requested: streamVersion,
        byHand: false,
        compensatedByHand: false,
      });
    } else if (event.type === 'SagaCompleted' || event.type === 'SagaCompensated') {
      story.terminal ??= { version: streamVersion, type: event.type };
    } else {
      const step = steps.get(stepOf(commandIdIn(event) ?? ''));
      if (step !== undefined) tell(step, event, streamVersion);
    }
  }
  story.steps = [...steps.values()];
  for (const step of story.steps)
    if (step.class === 'pivot' && step.done !== undefined) story.pivotPassed = step.done;
  return story;
}

function commandIdIn(event: EventBody): string | undefined {
  const action = event['action'] as EventBody | undefined;
  const id =
    event.type === 'OperatorActed' ? action?.['commandId'] : (event['of'] ?? event['commandId']);
  return typeof id === 'string' ? id : undefined;
}

function tell(step: StepStory, event: EventBody, version: number): void {
  switch (event.type) {
    case 'StepSucceeded':
      step.done = version;
      return;
    case 'StepRejected':
      // A retriable step has no business "no": it gets stuck with it, and goes on waiting.
      if (step.class !== 'retriable') step.closed = version;
      return;
    case 'StepGivenUp':
    case 'StepSuperseded':
      step.givenUp = version;
      return;
    case 'StepSettled': {
      const settlement = event['settlement'] as { outcome: string };
      if (settlement.outcome === 'succeeded') step.done = version;
      else step.closed = version;
      return;
    }
    case 'CompensationRequested':
      step.compensationRequested ??= version;
      return;
    case 'CompensationSucceeded':
      step.compensated = version;
      return;
    case 'OperatorActed':
      return tellVerb(step, event['action'] as { verb: string; commandId: string }, version);
    default:
      return;
  }
}

function tellVerb(
  step: StepStory,
  { verb, commandId }: { verb: string; commandId: string },
  version: number,
): void {
  if (verb !== 'resolve' && verb !== 'skip') return;
  if (commandId.endsWith('.c')) {
    step.compensated = version;
    step.compensatedByHand = true;
    return;
  }
  step.byHand = true;
  if (commandId.endsWith('.s') && verb === 'skip') step.closed = version;
  else step.done = version;
}

/** Versions between which the saga compensates as a whole. */
export function phasesOf({ events }: SagaStory): { from: number; to: number }[] {
  const phases: { from: number; to: number }[] = [];
  for (const { type, streamVersion } of events) {
    if (type === 'CompensationStarted') phases.push({ from: streamVersion, to: Infinity });
    const open = phases.at(-1);
    if (type === 'CompensationDone' && open !== undefined) open.to = streamVersion;
  }
  return phases;
}

export function inside(version: number | undefined, phase: { from: number; to: number }): boolean {
  return version !== undefined && phase.from < version && version < phase.to;
}
