/**
 * What a batch of seeds has seen: faults by I/O point, events, decisions, verbs, codes, states, ends of sagas.
 *
 * Guards against blind spots: whatever is declared (in points.ts, or by a written definition) and never came is
 * named, and what came without being declared as well.
 */
import type { AnyStateNode } from 'xstate';
import type { AnyDefinition } from '../../engine/core/define.ts';
import { ERRORS } from '../../engine/core/errors.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { FAULTS } from '../../engine/memory/faults.ts';
import { SAGA_PARTS } from '../support/random-saga.ts';
import type { Violation } from './evidence.ts';
import { isGenerated, kindsOf } from './generated.ts';
import { WRITTEN } from './plan.ts';
import { CODES, DECISIONS, FAULT_POINTS, POINTS, VERBS } from './points.ts';
import { ACTS, type SimulationResult } from './simulate.ts';

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
      for (const { event } of stream) countEvent(event, count);
    }
    for (const entry of evidence.entries) {
      if (entry.kind !== 'appended') continue;
      entry.snapshots.forEach(() => count('snapshots taken'));
      for (const { definition, state } of entry.summaries) {
        for (const part of state.split(',')) countState(result.plan, definition, part, count);
      }
    }
    for (const { code } of evidence.deadLetters) count(`code ${code}`);
    for (const { status, definition } of evidence.summaries.values()) {
      count(`end ${status}`);
      count(`end of ${isGenerated(definition) ? 'generated' : definition}: ${status}`);
    }
    for (const { name } of result.plan.definitions)
      if (isGenerated(name)) count('generated machines');
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
    return WRITTEN.flatMap((definition) => statesOf(definition)).filter(
      (state) => !seen.has(state),
    );
  }

  /** All that was declared and never came, or came and was not declared; none when nothing is unseen. */
  blindSpots(): { [what: string]: string[] } {
    const missing = (declared: readonly string[], prefix = ''): string[] =>
      declared.filter((what) => !this.#tally.has(`${prefix}${what}`));
    const points = new Set(POINTS);
    const met = ['done', ...FAULTS].flatMap((fate) =>
      this.counts(`${fate} `).map(([what]) => what),
    );
    const spots = {
      'events never seen': this.unseenEvents(),
      'states never seen': this.unseenStates(),
      'points never called': missing(POINTS, 'done '),
      'faults never injected': missing(FAULT_POINTS),
      'points that are not declared': [...new Set(met)].filter(
        (what) => !points.has(what) && !what.startsWith('starts of '),
      ),
      'acts never done': missing(ACTS, 'act '),
      'decisions never made': missing(DECISIONS),
      'operator verbs never used': missing(VERBS, 'verb '),
      'codes never met': missing(CODES, 'code '),
      'parts of generated machines never reached': missing(SAGA_PARTS, 'part '),
      'ends never come to': missing(['completed', 'compensated', 'stuck'], 'end '),
    };
    return Object.fromEntries(Object.entries(spots).filter(([, found]) => found.length > 0));
  }

  /** Everything that was counted, zeros of what is declared included: for a machine to read. */
  report(): object {
    const all = (prefix: string, declared: readonly string[] = []): object =>
      Object.fromEntries([
        ...declared.map((what): [string, number] => [what, 0]),
        ...this.counts(prefix),
      ]);
    const faults = POINTS.map((point) => [
      point,
      Object.fromEntries(
        ['done', ...FAULTS].map((fate) => [fate, this.#tally.get(`${fate} ${point}`) ?? 0]),
      ),
    ]);
    return {
      seeds: this.seeds,
      ends: all('end ', ['completed', 'compensated', 'stuck']),
      acts: all('act ', ACTS),
      faultsByPoint: Object.fromEntries(faults) as object,
      events: all('event ', Object.keys(EVENT_TYPES)),
      decisions: all(
        'decide ',
        DECISIONS.map((what) => what.slice('decide '.length)),
      ),
      ignored: all('ignored '),
      refused: all('refused '),
      verbs: all('verb ', VERBS),
      codes: all('code ', Object.keys(ERRORS)),
      writtenStates: all(
        'state ',
        WRITTEN.flatMap((definition) => statesOf(definition)),
      ),
      generatedParts: all('part ', SAGA_PARTS),
      blindSpots: this.blindSpots(),
    };
  }

  summary(): string {
    const line = (title: string, counts: [string, number][]): string =>
      `${title}: ${counts.map(([what, count]) => `${what} ${count}`).join(', ') || 'none'}`;
    const total = (prefix: string): number =>
      this.counts(prefix).reduce((sum, [, count]) => sum + count, 0);
    const states = WRITTEN.flatMap((definition) => statesOf(definition)).length;
    const spots = Object.entries(this.blindSpots());
    return [
      line(
        'sagas ended as',
        this.counts('end ').filter(([what]) => !what.startsWith('of ')),
      ),
      ...[...WRITTEN.map(({ name }) => name), 'generated'].map((name) =>
        line(`  ${name}`, this.counts(`end of ${name}: `)),
      ),
      `generated machines: ${this.#tally.get('generated machines') ?? 0}; came to ${this.counts('part ').length} parts and nestings of parts`,
      line(
        '  parts',
        this.counts('part ').filter(([what]) => !what.includes('>')),
      ),
      line('acts', this.counts('act ')),
      ...FAULTS.map(
        (fault) => `  ${fault}: ${total(`${fault} `)} at ${this.counts(`${fault} `).length} points`,
      ),
      line('processes', [...this.counts('restarts of '), ...this.counts('drains of ')]),
      line('verbs', this.counts('verb ')),
      line('decisions', this.counts('decide ')),
      line('  ignored', this.counts('ignored ')),
      line('  refused', this.counts('refused ')),
      line('codes', this.counts('code ')),
      line('snapshots', [...this.counts('snapshots '), ...this.counts('spoiled ')]),
      line('settled', this.counts('settled ')),
      line('events', this.counts('event ')),
      `states of written machines: ${states - this.unseenStates().length} of ${states}`,
      'faults by point:',
      ...this.#table(),
      ...(spots.length === 0 ? ['blind spots: none'] : ['blind spots:']),
      ...spots.map(([what, found]) => `  ${what}: ${found.join(', ')}`),
    ].join('\n');
  }

  /** One row a point, one column a fault; zeros are shown. */
  #table(): string[] {
    const width = Math.max(...POINTS.map(({ length }) => length));
    const row = (point: string, cells: readonly (string | number)[]): string =>
      `  ${point.padEnd(width)} ${cells.map((cell) => String(cell).padStart(14)).join('')}`;
    return [
      row('', ['done', ...FAULTS]),
      ...POINTS.map((point) =>
        row(
          point,
          ['done', ...FAULTS].map((fate) => this.#tally.get(`${fate} ${point}`) ?? 0),
        ),
      ),
    ];
  }
}

function countEvent(event: SagaEvent, count: (what: string) => void): void {
  count(`event ${event.type}`);
  if (event.type === 'StepSettled') count(`settled ${event.settlement.outcome}`);
  if (event.type === 'OperatorActed') count(`verb ${event.action.verb}`);
  if ('failure' in event) count(`code ${event.failure.code}`);
  if ('reason' in event && typeof event.reason === 'object' && event.reason !== null) {
    count(`code ${event.reason.code}`);
  }
}

function countState(
  { definitions }: SimulationResult['plan'],
  name: string,
  path: string,
  count: (what: string) => void,
): void {
  if (!isGenerated(name)) return count(`state ${name} ${path}`);
  const definition = definitions.find((one) => one.name === name);
  if (definition === undefined) return;
  const chains = kindsOf(definition, path);
  // The whole nesting, and each kind that is in it.
  for (const what of new Set([...chains, ...chains.flatMap((chain) => chain.split('>'))])) {
    count(`part ${what}`);
  }
}

function statesOf({ name, machine }: AnyDefinition): string[] {
  return restingStates(machine.root).map((path) => `${name} ${path}`);
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
