/**
 * A given-when-then driver over the pure core: one saga, any definition, virtual time, no port.
 *
 * Guards that no test of the core looks at less than all of it: after every input the driver checks that the
 * log replays to the live state (I9), that versions are 1..n (I1), that nothing follows the end (I5), that
 * decisions are deterministic and change nothing they were given, and what log-invariants.ts says (I3, I6, I7).
 */
import assert from 'node:assert/strict';
import { opOf, stepIdOf } from '../../engine/core/calls.ts';
import { findCall } from '../../engine/core/causes.ts';
import { decide, type Decision, type SagaInput } from '../../engine/core/decide.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type {
  CommandOp,
  Failure,
  OperatorAction,
  SagaEvent,
  SagaStatus,
} from '../../engine/core/events.ts';
import { fold, nextDeferred } from '../../engine/core/evolve.ts';
import type { Json } from '../../engine/core/json.ts';
import {
  activeCalls,
  earliestDue,
  isEnded,
  shownState,
  statusOf,
  stuckReason,
  type Call,
  type SagaState,
} from '../../engine/core/state.ts';
import type { ReplyBody } from '../../engine/core/wire.ts';
import { checkLog, type Logged } from './log-invariants.ts';

export const DRIVER_START_MS = 1_800_000_000_000;
/** More wake-ups in one `advance` means that something falls due again and again without effect. */
const MAX_WAKES = 20_000;

/** What a participant says; the driver adds ids and the attempt. */
export type Answer =
  | { outcome: 'succeeded'; output: Json }
  | { outcome: 'rejected'; failure: Failure }
  | { outcome: 'failed'; failure: Failure; retryable: boolean }
  | { outcome: 'pending' }
  | { outcome: 'heartbeat'; details?: Json }
  | { outcome: 'neverRan' }
  | { outcome: 'superseded' };

export const ok = (output: Json = {}): Answer => ({ outcome: 'succeeded', output });
export const no = (code = 'No', data?: Json): Answer => ({
  outcome: 'rejected',
  failure: { code, message: `${code} it is`, ...(data === undefined ? {} : { data }) },
});
export const broken = (retryable = true): Answer => ({
  outcome: 'failed',
  failure: { code: 'Crash', message: 'the handler threw' },
  retryable,
});
export const pending: Answer = { outcome: 'pending' };
export const heartbeat: Answer = { outcome: 'heartbeat' };
export const neverRan: Answer = { outcome: 'neverRan' };
export const superseded: Answer = { outcome: 'superseded' };

/** A command as its participant sees it. */
export interface SentCommand {
  commandId: string;
  op: CommandOp;
  step: string;
  attempt: number;
  command: string;
  input: Json;
}

export interface DriverOptions {
  sagaId?: string;
  /** Replay the whole log from scratch after every n-th input; 1 is always. Snapshots are tried each time. */
  replayEvery?: number;
  /** Chooses where snapshots are tried. */
  seed?: number;
  /** Leave out the checks whose cost grows with the log or the state; `checkReplay` at the end makes up for it. */
  light?: boolean;
}

export class SagaDriver {
  definition: AnyDefinition;
  readonly sagaId: string;
  now = DRIVER_START_MS;
  state: SagaState | null = null;
  readonly log: Logged[] = [];
  readonly #replayEvery: number;
  readonly #isLight: boolean;
  #random: number;
  #inputs = 0;
  #ids = 0;

  constructor(definition: AnyDefinition, options: DriverOptions = {}) {
    this.definition = definition;
    this.sagaId = options.sagaId ?? '7001';
    this.#replayEvery = options.replayEvery ?? 1;
    this.#isLight = options.light ?? false;
    this.#random = options.seed ?? 1;
  }

  static start(
    definition: AnyDefinition,
    input: Json = {},
    options: DriverOptions = {},
  ): SagaDriver {
    const driver = new SagaDriver(definition, options);
    const decision = driver.start(input);
    assert.equal(decision.kind, 'accepted');
    return driver;
  }

  /** The same, as an engine logged it whose rules had no number yet. */
  static startedBefore(definition: AnyDefinition): SagaDriver {
    const driver = SagaDriver.start(definition);
    const [start] = driver.log;
    assert(start?.event.type === 'SagaStarted' && start.event.rules === 2);
    const { rules: _, ...event } = start.event;
    driver.log[0] = { event, at: start.at };
    driver.state = fold(definition, driver.sagaId, driver.log);
    return driver;
  }

  // ---------------------------------------------------------------- when

  start(input: Json = {}): Decision {
    return this.send({
      type: 'start',
      body: {
        sagaId: this.sagaId,
        namespace: 'default',
        definition: this.definition.name,
        definitionVersion: this.definition.version,
        input,
      },
    });
  }

  /**
   * A participant's reply. `which` is a step's name, for its newest command: `charge`, `charge:compensate`,
   * `charge:settle`; or a command id. The attempt is the current one unless given.
   */
  reply(which: string, answer: Answer, attempt?: number): Decision {
    const commandId = this.commandId(which);
    const current = this.state === null ? undefined : findCall(this.state, commandId)?.call.attempt;
    const body = {
      ...answer,
      commandId,
      sagaId: this.sagaId,
      namespace: 'default',
      attempt: attempt ?? current ?? 1,
    } as ReplyBody;
    return this.send({ type: 'reply', body });
  }

  signal(name: string, payload: Json = {}, signalId = this.#freshId('signal')): Decision {
    return this.send({
      type: 'signal',
      body: { sagaId: this.sagaId, namespace: 'default', signalId, name, payload },
    });
  }

  cancel(requestId = this.#freshId('cancel')): Decision {
    return this.send({
      type: 'cancel',
      body: {
        sagaId: this.sagaId,
        namespace: 'default',
        requestId,
        reason: 'not wanted any more',
        by: 'a tester',
      },
    });
  }

  operator(action: OperatorAction, requestId = this.#freshId('verb')): Decision {
    return this.send({
      type: 'operator',
      body: {
        sagaId: this.sagaId,
        namespace: 'default',
        requestId,
        by: 'a tester',
        reason: 'a test',
        action,
      },
    });
  }

  /** Time passes; everything that falls due in between is woken at its time, earliest first. */
  advance(ms: number): void {
    const target = this.now + ms;
    for (let wakes = 0; ; wakes++) {
      assert.ok(wakes < MAX_WAKES, 'the saga falls due again and again');
      const due = this.state === null ? null : earliestDue(this.state);
      if (due === null || due.at > target) break;
      this.now = Math.max(this.now, due.at);
      const decision = this.send({ type: 'wake' });
      assert.equal(decision.kind, 'accepted', `what is due is applied: ${JSON.stringify(due)}`);
    }
    this.now = target;
    const rest = this.state === null ? null : earliestDue(this.state);
    assert.ok(rest === null || rest.at > this.now, 'nothing is left in the past');
    assert.equal(this.send({ type: 'wake' }).kind, 'ignored', 'a wake-up too many does nothing');
  }

  /** Swaps the definition for another of the same name and version, as a deployment of a mended one would. */
  deploy(definition: AnyDefinition): void {
    this.definition = definition;
  }

  /** Any input. Everything above comes through here, and everything is checked here. */
  send(input: SagaInput): Decision {
    const before = this.state;
    if (this.#isLight) return this.#sendLight(input);
    const beforeText = JSON.stringify(before);
    const decision = decide(this.definition, this.sagaId, before, input, this.now);
    assert.equal(JSON.stringify(before), beforeText, 'decide changes nothing that it is given');
    const again = decide(
      this.definition,
      this.sagaId,
      JSON.parse(beforeText) as SagaState | null,
      JSON.parse(JSON.stringify(input)) as SagaInput,
      this.now,
    );
    assert.deepStrictEqual(plain(again), plain(decision), 'the same input gives the same decision');
    if (before !== null && isEnded(before)) assert.equal(decision.kind, 'ignored', 'I5');
    if (decision.kind === 'accepted') this.#accept(before, decision);
    return decision;
  }

  #sendLight(input: SagaInput): Decision {
    const decision = decide(this.definition, this.sagaId, this.state, input, this.now);
    if (decision.kind !== 'accepted') return decision;
    for (const event of decision.events) this.log.push({ event, at: this.now });
    this.state = decision.state;
    return decision;
  }

  #accept(before: SagaState | null, decision: Extract<Decision, { kind: 'accepted' }>): void {
    const { events, state } = decision;
    const fresh = events.map((event) => ({ event, at: this.now }));
    this.log.push(...fresh);
    this.state = state;
    assert.deepStrictEqual(plain(state), state, 'a state is plain JSON, without undefined');
    assert.deepStrictEqual(plain(events), events, 'events are plain JSON, without undefined');
    assert.equal(state.streamVersion, this.log.length, 'I1: versions are 1..n');
    assert.deepStrictEqual(state.expected, [], 'a turn is logged whole');
    assert.equal(nextDeferred(state), undefined, 'nothing that may be applied is left deferred');
    const folded = fold(this.definition, this.sagaId, plain(fresh), plain(before));
    assert.deepStrictEqual(folded, state, 'I9: the new events fold to the live state');
    if (this.#inputs++ % this.#replayEvery === 0) this.checkReplay();
    checkLog(this.log, this.definition);
  }

  /** I9: the log, also after a round trip through jsonb and from a snapshot anywhere, folds to the live state. */
  checkReplay(): void {
    const events = asJsonb(this.log);
    const whole = fold(this.definition, this.sagaId, events);
    assert.deepStrictEqual(whole, this.state, 'I9: the log folds to the live state');
    this.#random = (Math.imul(this.#random, 1_103_515_245) + 12_345) & 0x7fffffff;
    const at = this.#random % (events.length + 1);
    const early = fold(this.definition, this.sagaId, events.slice(0, at));
    const late = fold(this.definition, this.sagaId, events.slice(at), asJsonb(early));
    assert.deepStrictEqual(late, this.state, `I9: from a snapshot at ${at} too`);
    checkLog(this.log, this.definition);
  }

  // ---------------------------------------------------------------- then

  /** Commands that participants have and have not answered for good: `a`, `a:compensate`, `a:settle`. */
  outstanding(op?: CommandOp): string[] {
    return this.calls()
      .filter(({ call }) => call.status === 'open' || call.status === 'pending')
      .filter(({ call }) => op === undefined || opOf(call.commandId) === op)
      .map(({ name }) => name);
  }

  /** All calls that are not closed, whatever their status. */
  calls(): { name: string; call: Call }[] {
    if (this.state === null) return [];
    return activeCalls(this.state).map(({ step, call }) => {
      const op = opOf(call.commandId);
      return { name: op === 'do' ? step.step : `${step.step}:${op}`, call };
    });
  }

  call(which: string): Call {
    const found = this.calls().find(({ name, call }) => name === which || call.commandId === which);
    assert.ok(
      found,
      `${which} is under way; there are: ${this.calls()
        .map((c) => c.name)
        .join()}`,
    );
    return found.call;
  }

  /** Every publication of a command so far, in order. */
  sent(): SentCommand[] {
    const steps = new Map<string, string>();
    return this.log.flatMap(({ event }) => {
      if (event.type === 'StepRequested') steps.set(event.commandId, event.step);
      return sentBy(event, steps);
    });
  }

  /** Names of the commands sent, in order: `a`, `b`, `b:compensate`… */
  sentNames(): string[] {
    return this.sent().map(({ step, op }) => (op === 'do' ? step : `${step}:${op}`));
  }

  commandId(which: string): string {
    if (/^\d/.test(which)) return which;
    const [step = '', op = 'do'] = which.split(':');
    const newest = this.sent()
      .filter((command) => command.step === step && command.op === op)
      .at(-1);
    assert.ok(newest, `${which} was sent; sent were: ${this.sentNames().join()}`);
    return newest.commandId;
  }

  events(): SagaEvent[] {
    return this.log.map(({ event }) => event);
  }

  types(): string[] {
    return this.log.map(({ event }) => event.type);
  }

  count(type: SagaEvent['type']): number {
    return this.log.filter(({ event }) => event.type === type).length;
  }

  last<T extends SagaEvent['type']>(type: T): Extract<SagaEvent, { type: T }> {
    const found = this.events().findLast((event) => event.type === type);
    assert.ok(found, `${type} is in the log; there are: ${this.types().join()}`);
    return found as Extract<SagaEvent, { type: T }>;
  }

  get live(): SagaState {
    assert.ok(this.state, 'the saga was started');
    return this.state;
  }
  get status(): SagaStatus {
    return statusOf(this.live);
  }
  /** The machine's state as one line. */
  get value(): string {
    return shownState(this.live);
  }
  get context(): { [key: string]: Json } {
    return this.live.machine?.context ?? {};
  }
  get stuckCode(): string | undefined {
    return stuckReason(this.live)?.code;
  }

  #freshId(kind: string): string {
    this.#ids += 1;
    return `${kind}-${this.#ids}`;
  }
}

function sentBy(event: SagaEvent, steps: ReadonlyMap<string, string>): SentCommand[] {
  switch (event.type) {
    case 'StepRequested':
    case 'CommandRetried':
    case 'SettlementRequested':
    case 'CompensationRequested':
      return [
        {
          commandId: event.commandId,
          op: opOf(event.commandId),
          step: steps.get(stepIdOf(event.commandId)) ?? '?',
          attempt: event.type === 'CommandRetried' ? event.attempt : 1,
          command: event.command,
          input: 'input' in event ? event.input : null,
        },
      ];
    default:
      return [];
  }
}

/** A round trip through Postgres' jsonb, which keeps keys by length, then by bytes. */
function asJsonb<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_, item: unknown) => {
    if (typeof item !== 'object' || item === null || Array.isArray(item)) return item;
    const entries = Object.entries(item);
    entries.sort(([a], [b]) => a.length - b.length || (a < b ? -1 : 1));
    return Object.fromEntries(entries);
  }) as T;
}

function plain<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}
