/**
 * One saga against participants that meet a case's troubles: the pure core on one side, the real barrier on
 * the other, and a ledger of what each command did.
 *
 * Guards I6-I8 by exact counts: each step's effect is there once or not at all, and it is taken back exactly
 * when it was done and the saga turned back. At the end every command comes once more, newest first, and
 * nothing may change by that.
 */
import assert from 'node:assert/strict';
import { opOf, stepIdOf } from '../../../engine/core/calls.ts';
import type { AnyContract } from '../../../engine/core/contracts.ts';
import type { Json } from '../../../engine/core/json.ts';
import { earliestDue, isEnded } from '../../../engine/core/state.ts';
import type { CommandBody, ReplyBody } from '../../../engine/core/wire.ts';
import { SagaDriver, type SentCommand } from '../../support/saga-driver.ts';
import { PASSING_FAILURES, type Case, type Trouble } from './faults.ts';
import { sampleOf, specOf } from './nodes.ts';

/** What a handler does to the ledger, and how it says no. */
export interface Work {
  commandId: string;
  contract: AnyContract;
  original: { commandId: string; output: unknown } | null;
  /** Does the command's effect. */
  apply: () => Promise<void>;
  reject: (code: string, data: Json) => unknown;
}

/** Participants on one kind of store, with handlers of one kind. */
export interface Participants {
  /** Two workers of the same service, on two connections. */
  readonly workers: readonly [Run, Run];
  /** How often the effect of a command is there. */
  applied(commandId: string): Promise<number>;
  /** Who does the work of a saga's commands. */
  readonly worlds: Map<string, World>;
  /** Work outside of a transaction: an effect that was done stays done when its handler throws behind it. */
  readonly outside: boolean;
}
type Run = (command: CommandBody) => Promise<ReplyBody>;

/** Digits at the end of a step's number that make it one that was never sent; no saga here has so many steps. */
const STRAY = '0000';
const STRAY_END = /0000$/;

/** Attempts of a broken command that its participant really gets; there are 28, and they are all alike. */
const ASKED_ATTEMPTS = 3;

/** More rounds than any case needs: one that goes on for ever fails. */
const MAX_ROUNDS = 500;

export class World {
  readonly driver: SagaDriver;
  readonly #case: Case;
  readonly #participants: Participants;
  /** Sent and not delivered yet, oldest first. */
  readonly #queue: SentCommand[] = [];
  /** Held back until their settlement is on its way or answered. */
  readonly #held = new Map<string, SentCommand>();
  /** Answers held back, by command id. */
  readonly #answers = new Map<string, ReplyBody>();
  /** Commands whose first answer is out. */
  readonly #answered = new Set<string>();
  readonly #runs = new Map<string, number>();
  readonly #sent: CommandBody[] = [];
  #taken = 0;
  #mended = false;
  /** Whether several commands were ever on their way at once. */
  parallel = false;
  /** Codes of what a person had to mend. */
  readonly stuck: string[] = [];

  constructor(one: Case, participants: Participants, sagaId: string) {
    this.#case = one;
    this.#participants = participants;
    participants.worlds.set(sagaId, this);
    const { definition, input } = one.way;
    this.driver = SagaDriver.start(definition, input, { sagaId, light: true });
  }

  /** Until the saga has ended. */
  async run(): Promise<void> {
    const { driver } = this;
    for (let round = 0; !isEnded(driver.live); round += 1) {
      assert.ok(round < MAX_ROUNDS, `${this.#case.name} does not end; it is at ${driver.value}`);
      this.#gather();
      const next = this.#case.first === 'oldest' ? this.#queue.shift() : this.#queue.pop();
      if (next !== undefined) await this.#deliver(next);
      else if (driver.status === 'stuck') this.#mend();
      else if (!this.#case.way.act(driver)) this.#letTimePass();
    }
    driver.checkReplay();
  }

  /** Every command once more, and every answer that was held back. */
  async echo(): Promise<void> {
    const before = this.driver.log.length;
    for (const answer of this.#answers.values()) this.#reply(answer);
    const newest = new Map(this.#sent.map((command) => [command.commandId, command]));
    for (const command of [...newest.values()].reverse()) {
      this.#reply(await this.#participants.workers[1](command));
    }
    assert.equal(this.driver.log.length, before, 'I5: what comes late adds nothing');
  }

  /** What the commands' effects are: step's name → how often it was done and taken back. */
  async ledger(): Promise<{ [step: string]: { done: number; undone: number } }> {
    const { applied } = this.#participants;
    const ledger: { [step: string]: { done: number; undone: number } } = {};
    for (const event of this.driver.events()) {
      if (event.type !== 'StepRequested') continue;
      const [done, undone] = [
        await applied(event.commandId),
        await applied(`${event.commandId}.c`),
      ];
      ledger[event.step] = { done, undone };
    }
    return ledger;
  }

  /** A command for a step that the saga has not sent, with the input of the one that it has. */
  strayStep(step: string): CommandBody {
    const sent = this.#sent.find(
      ({ op, commandId }) => op === 'do' && this.#nodeOf(commandId) === step,
    );
    assert.ok(sent, `${step} was sent`);
    const commandId = `${sent.commandId}${STRAY}`;
    return { ...sent, commandId };
  }

  /** How often the handler of a node ran, over all its attempts and deliveries. */
  runs(node: string): number {
    return this.#runs.get(node) ?? 0;
  }

  /** Called by the handlers. */
  async work({ commandId, contract, original, apply, reject }: Work): Promise<unknown> {
    const node = this.#nodeOf(commandId);
    const run = this.runs(node) + 1;
    this.#runs.set(node, run);
    if (opOf(commandId) === 'compensate') await this.#assertDone(commandId, original);
    const trouble = this.#troubleOf(node);
    const fails = this.#fails(trouble, run);
    if (fails && trouble !== 'throws behind' && trouble !== 'broken behind') {
      throw new Error(`${node} is out of order`);
    }
    // Until it has been heard: a handler may run again when the transaction that it shared was rolled back.
    if (trouble === 'rejected' && !this.#answered.has(commandId)) {
      return this.#reject(contract, apply, reject);
    }
    await apply();
    if (fails) throw new Error(`${node} broke behind its work`);
    return sampleOf(contract.output, commandId);
  }

  async #reject(contract: AnyContract, apply: Work['apply'], reject: Work['reject']) {
    const [code = ''] = Object.keys(contract.rejections as object);
    // Work done before a no goes with its transaction; elsewhere a no means that nothing was done.
    if (!this.#participants.outside) await apply();
    return reject(code, sampleOf(contract.rejections[code], code));
  }

  #fails(trouble: Trouble | undefined, run: number): boolean {
    if (trouble === 'broken' || trouble === 'broken behind') return !this.#mended;
    const passes = trouble === 'throws before' || trouble === 'throws behind';
    return passes && run <= PASSING_FAILURES;
  }

  /** A compensation's handler runs only for what was done, and gets the answer that the step gave. */
  async #assertDone(commandId: string, original: Work['original']): Promise<void> {
    const of = stepIdOf(commandId);
    const { contract } = specOf(this.#case.way.definition, this.#nodeOf(of));
    const done = await this.#participants.applied(of);
    assert.equal(done, 1, `${commandId} takes back what was done`);
    assert.equal(original?.commandId, of);
    assert.deepEqual(original?.output, sampleOf(contract.output, of), 'the stored answer');
  }

  // ---------------------------------------------------------------- deliveries

  #gather(): void {
    const sent = this.driver.sent();
    this.#queue.push(...sent.slice(this.#taken));
    this.#taken = sent.length;
    this.parallel ||= this.#queue.length > 1;
  }

  async #deliver(sent: SentCommand): Promise<void> {
    const trouble = this.#troubleOf(this.#nodeOf(sent.commandId));
    const late = trouble === 'comes late' || trouble === 'settled meanwhile';
    if (late && sent.op === 'do') {
      this.#held.set(sent.commandId, sent);
      return;
    }
    if (sent.op === 'settle') return this.#settle(sent, this.#heldStep(sent));
    const command = this.#bodyOf(sent);
    if (this.#isHopeless(trouble, sent)) return this.#reply(failedAgain(command));
    const [one, other] = this.#participants.workers;
    if (trouble === 'at once') {
      const answers = await Promise.all([one(command), other(command)]);
      this.#assertSame(answers);
      for (const answer of answers) this.#reply(answer);
      return;
    }
    const answer = await one(command);
    this.#answered.add(command.commandId);
    if (trouble === 'twice' || trouble === 'rejected') {
      const again = await other(command);
      this.#assertSame([answer, again]);
      this.#reply(answer);
      return this.#reply(again);
    }
    if (trouble === 'answer lost' || trouble === 'answer late') {
      this.#answers.set(command.commandId, answer);
      return;
    }
    this.#reply(answer);
  }

  /** Late attempts of what stays broken are answered as the early ones were, without asking the participant. */
  #isHopeless(trouble: Trouble | undefined, { attempt, op }: SentCommand): boolean {
    const broken = trouble === 'broken' || trouble === 'broken behind';
    return broken && op !== 'settle' && attempt > ASKED_ATTEMPTS && !this.#mended;
  }

  #heldStep(settlement: SentCommand): SentCommand | undefined {
    const of = stepIdOf(settlement.commandId);
    const step = this.#held.get(of);
    this.#held.delete(of);
    return step;
  }

  /** A settlement, with its step before, beside or behind it. */
  async #settle(sent: SentCommand, step: SentCommand | undefined): Promise<void> {
    const of = stepIdOf(sent.commandId);
    const trouble = this.#troubleOf(this.#nodeOf(of));
    const [one, other] = this.#participants.workers;
    const settlement = this.#bodyOf(sent);
    const isBroken = trouble === 'broken' || trouble === 'broken behind';
    if (isBroken && this.#participants.outside && sent.attempt > ASKED_ATTEMPTS && !this.#mended) {
      return this.#reply(failedAgain(settlement));
    }
    if (trouble === 'answer late') this.#replyHeld(of);
    if (step === undefined || trouble !== 'settled meanwhile') {
      this.#reply(await one(settlement));
      if (trouble === 'answer lost') this.#replyHeld(of);
      if (step === undefined) return;
      const late = await other(this.#bodyOf(step));
      assert.equal(late.outcome, 'superseded', 'a step behind its settlement is not run');
      return this.#reply(late);
    }
    const [settled, ran] = await Promise.all([one(settlement), other(this.#bodyOf(step))]);
    // An effect that is under way is no answer yet: the engine asks again.
    if (settled.outcome === 'neverRan') assert.equal(ran.outcome, 'superseded');
    if (settled.outcome === 'succeeded') assert.equal(ran.outcome, 'succeeded');
    this.#reply(settled);
    this.#reply(ran);
  }

  #replyHeld(commandId: string): void {
    const answer = this.#answers.get(commandId);
    if (answer !== undefined) this.#reply(answer);
  }

  #assertSame([first, second]: ReplyBody[]): void {
    if (first?.outcome !== 'failed')
      assert.deepEqual(second, first, 'a repeat gets the first answer');
  }

  #reply(body: ReplyBody): void {
    const decision = this.driver.send({ type: 'reply', body });
    assert.notEqual(decision.kind, 'refused', JSON.stringify(decision));
  }

  #bodyOf(sent: SentCommand): CommandBody {
    const of = stepIdOf(sent.commandId);
    const requested = this.driver
      .events()
      .find((event) => event.type === 'StepRequested' && event.commandId === of);
    const deadlineAt = requested?.type === 'StepRequested' ? requested.deadlineAt : undefined;
    const body: CommandBody = {
      commandId: sent.commandId,
      sagaId: this.driver.sagaId,
      namespace: 'default',
      command: sent.command,
      op: sent.op,
      attempt: sent.attempt,
      input: sent.input,
      replyTo: { topic: 'test.inbox', partition: 0 },
      ...(sent.op === 'do' ? {} : { of }),
      ...(sent.op === 'do' && deadlineAt !== undefined ? { deadlineAt } : {}),
    };
    this.#sent.push(body);
    return body;
  }

  // ---------------------------------------------------------------- time and people

  #mend(): void {
    const call = this.driver.calls().find(({ call }) => call.status === 'stuck')?.call;
    assert.ok(call, `stuck with nothing to mend: ${this.driver.stuckCode}`);
    assert.ok(!this.#mended || this.stuck.length < 8, 'what was mended works');
    this.stuck.push(this.driver.stuckCode ?? '');
    this.#mended = true;
    const decision = this.driver.operator({ verb: 'retry', commandId: call.commandId });
    assert.equal(decision.kind, 'accepted');
  }

  #letTimePass(): void {
    const due = earliestDue(this.driver.live);
    assert.ok(due, `${this.#case.name}: nothing is on its way and nothing is due`);
    this.driver.advance(Math.max(0, due.at - this.driver.now));
  }

  #troubleOf(node: string): Trouble | undefined {
    return this.#case.faults.find((fault) => fault.node === node)?.trouble;
  }

  /** `charge`, `charge:compensate`. */
  #nodeOf(commandId: string): string {
    const of = stepIdOf(commandId).replace(STRAY_END, '');
    const event = this.driver
      .events()
      .find((one) => one.type === 'StepRequested' && one.commandId === of);
    if (event?.type !== 'StepRequested') throw new Error(`${of} was never requested.`);
    const op = opOf(commandId);
    return op === 'do' ? event.step : `${event.step}:${op}`;
  }
}

function failedAgain({ commandId, sagaId, namespace, attempt }: CommandBody): ReplyBody {
  const failure = { code: 'HANDLER_FAILED', message: 'still out of order' };
  const head = { commandId, sagaId, namespace, attempt };
  return { ...head, outcome: 'failed', failure, retryable: true };
}
