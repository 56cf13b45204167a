/** What histories are kept of: for each definition, the ways in which its sagas may go. Read from the events alone. */
import type { SagaEvent } from '../../engine/core/events.ts';

type Feature = (events: readonly SagaEvent[]) => boolean;
type Type = SagaEvent['type'];

const has =
  (...types: Type[]): Feature =>
  (events) =>
    types.every((type) => events.some((event) => event.type === type));
const ends = (type: Type, ...others: Type[]): Feature => {
  const first = has(...others);
  return (events) => events.at(-1)?.type === type && first(events);
};
const verb =
  (name: string): Feature =>
  (events) =>
    has('SagaStuck', 'SagaUnstuck')(events) &&
    events.some((event) => event.type === 'OperatorActed' && event.action.verb === name) &&
    /^Saga(Completed|Compensated)$/.test(events.at(-1)?.type ?? '');
const signal =
  (name: string): Feature =>
  (events) =>
    events.some((event) => event.type === 'SignalReceived' && event.name === name);
const count =
  (type: Type, least: number): Feature =>
  (events) =>
    events.filter((event) => event.type === type).length >= least;

const everyone: { [name: string]: Feature } = {
  completed: ends('SagaCompleted'),
  compensated: ends('SagaCompensated', 'CompensationRequested'),
  'retried and completed': ends('SagaCompleted', 'StepFailed', 'CommandRetried'),
  'timed out and settled': has('StepTimedOut', 'StepGivenUp', 'StepSettled'),
  'paused and resumed': has('SagaPaused', 'InputDeferred', 'SagaResumed'),
  'cancelled and compensated': ends('SagaCompensated', 'CancelRequested', 'CompensationStarted'),
  stuck: ends('SagaStuck'),
  'stuck and retried': verb('retry'),
};

const own: { [definition: string]: { [name: string]: Feature } } = {
  order: {
    approved: signal('approve'),
    'approval declined': signal('decline'),
    'approval timed out': has('TimerFired', 'CompensationStarted'),
    'timer cleared': has('TimerCleared'),
    'rejected and compensated': ends('SagaCompensated', 'StepRejected', 'CompensationRequested'),
    'cancel refused past the pivot': has('CancelRefused'),
    'a compensation that failed at first': has('CompensationFailed', 'CompensationSucceeded'),
    pending: has('StepPending', 'StepSucceeded'),
    'stuck and resolved by hand': verb('resolve'),
    'stuck and skipped': verb('skip'),
  },
  trip: {
    'regions compensated': (events) =>
      count('CompensationRequested', 2)(events) && has('SagaCompensated')(events),
    'one region rejected': ends('SagaCompensated', 'StepRejected', 'CompensationRequested'),
    'a pending booking': has('StepPending'),
    'cancel refused past the pivot': has('CancelRefused'),
    'a late success that was given up': (events) =>
      events.some(
        (event) => event.type === 'StepSettled' && event.settlement.outcome === 'succeeded',
      ),
  },
  transfer: {
    'rejected and compensated': ends('SagaCompensated', 'StepRejected', 'CompensationRequested'),
    'cancel refused past the pivot': has('CancelRefused'),
    'stuck and resolved by hand': verb('resolve'),
  },
  ladder: {
    'five rungs': count('StepRequested', 5),
    'hurried by a signal': has('SignalReceived', 'TimerCleared'),
  },
  errand: {
    'held and taken up again by its history': (events) =>
      events.some(({ type }) => type === 'DomainEventEmitted') &&
      signal('hold')(events) &&
      signal('proceed')(events),
    'left steps': has('StepSuperseded', 'StepSettled'),
  },
  detour: {
    'code that threw': has('InputFaulted', 'SagaStuck'),
    'compensated and begun again': count('CompensationDone', 2),
  },
  bare: { 'the engine compensates in its stead': ends('SagaCompensated', 'CompensationStarted') },
};

/** Gaps: the seeds searched so far had no such stream. Take a line out when one has been recorded. */
const NOT_RECORDED: ReadonlySet<string> = new Set([
  'trip: stuck and retried',
  'ladder: stuck and retried',
]);

/** Names of the features of a definition that have to be among its histories. */
export function featuresOf(definition: string): string[] {
  return Object.keys({ ...everyone, ...own[definition] }).filter(
    (feature) => !NOT_RECORDED.has(`${definition}: ${feature}`),
  );
}

/** Those that this stream shows. */
export function featuresIn(definition: string, events: readonly SagaEvent[]): string[] {
  return Object.entries({ ...everyone, ...own[definition] })
    .filter(([, shows]) => shows(events))
    .map(([name]) => name);
}
