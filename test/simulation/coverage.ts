/**
 * What a batch of seeds has seen: faults injected by point, kinds of events, ends of sagas, states.
 *
 * Guards against blind spots: a fault that was never drawn, or an event that never came, is named.
 */
import type { AnyStateNode } from 'xstate';
import type { SagaEvent } from '../../engine/core/events.ts';
import type { Violation } from './evidence.ts';
import { WRITTEN } from './plan.ts';
import type { SimulationResult } from './simulate.ts';

export interface SeedReport {
  seed: number;
  violations: Violation[];
  traceHash: string;
  sagas: number;
  events: number;
  virtualMs: number;
  tally: [string, number][];
}

/** Every kind of event there is; the compiler sees to it that none is missing. */
const EVENT_TYPES: Readonly<Record<SagaEvent['type'], true>> = {
  SagaStarted: true,
  StepSucceeded: true,
  StepRejected: true,
  StepFailed: true,
  StepPending: true,
  StepHeartbeat: true,
  StepTimedOut: true,
  StepSettled: true,
  SettlementFailed: true,
  CompensationSucceeded: true,
  CompensationFailed: true,
  RetryDue: true,
  TimerFired: true,
  SignalReceived: true,
  CancelRequested: true,
  OperatorActed: true,
  InputDeferred: true,
  InputFaulted: true,
  StepRequested: true,
  RetryScheduled: true,
  StepGivenUp: true,
  StepSuperseded: true,
  CommandRetried: true,
  SettlementRequested: true,
  TimerSet: true,
  TimerCleared: true,
  DomainEventEmitted: true,
  CompensationStarted: true,
  CompensationRequested: true,
  CompensationDone: true,
  CancelRefused: true,
  SagaPaused: true,
  SagaResumed: true,
  SagaStuck: true,
  SagaUnstuck: true,
  SagaCompleted: true,
  SagaCompensated: true,
};

export class Coverage {
  seeds = 0;
  readonly #tally = new Map<string, number>();

  /** What one run tells, small enough to go from thread to thread. */
  static report(result: SimulationResult): SeedReport {
    const { seed, violations, traceHash, sagas, events, virtualMs, evidence } = result;
    const tally = new Map(result.tally);
    const count = (what: string): void => void tally.set(what, (tally.get(what) ?? 0) + 1);
    for (const stream of evidence.streams.values()) {
      for (const { event } of stream) {
        count(`event ${event.type}`);
        if (event.type === 'StepSettled') count(`settled ${event.settlement.outcome}`);
      }
    }
    for (const entry of evidence.entries) {
      if (entry.kind !== 'appended') continue;
      entry.snapshots.forEach(() => count('snapshots taken'));
      for (const { definition, state } of entry.summaries) {
        for (const part of state.split(',')) count(`state ${definition} ${part}`);
      }
    }
    for (const { status, definition } of evidence.summaries.values()) {
      count(`end ${status}`);
      count(`end of ${definition}: ${status}`);
    }
    return { seed, violations, traceHash, sagas, events, virtualMs, tally: [...tally] };
  }

  /** One line per saga, for a replayed seed. */
  static streams({ evidence }: SimulationResult): string[] {
    return [...evidence.streams].map(
      ([sagaId, stream]) =>
        `saga ${sagaId}: ${stream.map(({ streamVersion, event }) => `${streamVersion} ${describe(event)}`).join(', ')}`,
    );
  }

  add(report: SeedReport): void {
    this.seeds += 1;
    for (const [what, count] of report.tally) {
      this.#tally.set(what, (this.#tally.get(what) ?? 0) + count);
    }
  }

  /** What has been counted under names that begin so. */
  counts(prefix: string): [string, number][] {
    return [...this.#tally]
      .filter(([what]) => what.startsWith(prefix))
      .map(([what, count]): [string, number] => [what.slice(prefix.length), count])
      .sort(([a], [b]) => (a < b ? -1 : 1));
  }

  /** Kinds of events that never came. */
  unseenEvents(): string[] {
    const seen = new Set(this.counts('event ').map(([type]) => type));
    return Object.keys(EVENT_TYPES).filter((type) => !seen.has(type));
  }

  /** States in which no saga has ever rested. */
  unseenStates(): string[] {
    const seen = new Set(this.counts('state ').map(([state]) => state));
    return WRITTEN.flatMap(({ name, machine }) =>
      restingStates(machine.root).map((path) => `${name} ${path}`),
    ).filter((state) => !seen.has(state));
  }

  summary(): string {
    const line = (title: string, counts: [string, number][]): string =>
      `${title}: ${counts.map(([what, count]) => `${what} ${count}`).join(', ') || 'none'}`;
    const fates = [
      'failed',
      'unknownDone',
      'unknownNotDone',
      'unknownPartial',
      'crashBefore',
      'crashDuring',
      'crashAfter',
      'pause',
    ];
    const unseen = this.unseenEvents();
    return [
      line(
        'sagas ended as',
        this.counts('end ').filter(([what]) => !what.startsWith('of ')),
      ),
      ...WRITTEN.map(({ name }) => line(`  ${name}`, this.counts(`end of ${name}: `))),
      line('acts', this.counts('act ')),
      ...fates.map((fate) => line(`  ${fate}`, this.counts(`${fate} `))),
      line('processes', [...this.counts('restarts of '), ...this.counts('drains of ')]),
      line('operator', this.counts('operator ')),
      line('snapshots', [...this.counts('snapshots '), ...this.counts('spoiled ')]),
      line('settled', this.counts('settled ')),
      line('events', this.counts('event ')),
      `events never seen: ${unseen.join(', ') || 'none'}`,
      `states never seen: ${this.unseenStates().join(', ') || 'none'}`,
    ].join('\n');
  }
}

/** Paths of the leaves, but for history states and those that are left at once. */
function restingStates(node: AnyStateNode): string[] {
  const children = Object.values(node.states);
  if (children.length > 0) return children.flatMap((child) => restingStates(child));
  const passing =
    node.type === 'history' || (node.always ?? []).some(({ guard }) => guard === undefined);
  return passing ? [] : [node.path.join('.')];
}

function describe(event: SagaEvent): string {
  const id =
    'commandId' in event ? event.commandId : 'timerId' in event ? event.timerId : undefined;
  const short = id?.replace(/^\d+(?=\.)/, '');
  if (event.type === 'InputDeferred' || event.type === 'InputFaulted') {
    return `${event.type}(${describe(event.cause)})`;
  }
  if (event.type === 'OperatorActed') return `OperatorActed(${event.action.verb})`;
  return short === undefined ? event.type : `${event.type}(${short})`;
}
