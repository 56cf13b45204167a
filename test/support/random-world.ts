/**
 * A participant with a barrier (SEMANTICS 4.4) and a lossless, disorderly network around one saga under the driver.
 *
 * Guards that the core is tried against what may really come: late, repeated and reordered commands and replies,
 * rejections, crashes, answers that come later, and settlements; and that its effects can be counted at the end.
 */
import assert from 'node:assert/strict';
import type { StepClass } from '../../engine/core/events.ts';
import { stuckReason } from '../../engine/core/state.ts';
import type { Dice } from './dice.ts';
import { SAGA_SIGNALS } from './random-saga.ts';
import type { Answer, SagaDriver, SentCommand } from './saga-driver.ts';

/** What the participant's database says of one step. */
interface Entry {
  outcome?: 'done' | 'rejected' | 'barred' | 'pending';
  isUndone: boolean;
}
interface Reply {
  commandId: string;
  answer: Answer;
  attempt: number;
}
/** Rounds of the closing phase; every one of them answers all that is asked. */
const MAX_ROUNDS = 400;

export class RandomWorld {
  readonly saga: SagaDriver;
  readonly #dice: Dice;
  readonly #entries = new Map<string, Entry>();
  readonly #classes = new Map<string, StepClass>();
  #read = 0;
  /** Commands published and not delivered yet. */
  #undelivered: SentCommand[] = [];
  #delivered: SentCommand[] = [];
  #replies: Reply[] = [];
  #repeats: Reply[] = [];
  #isCalm = false;
  /** A person's word overrode what participants know: their books may differ from the log's. */
  isOverridden = false;

  constructor(saga: SagaDriver, dice: Dice) {
    this.saga = saga;
    this.#dice = dice;
    this.#publish();
  }

  /** One thing happens. */
  stir(): void {
    const dice = this.#dice;
    const roll = dice.below(100);
    if (roll < 40) this.#deliver(dice.chance(0.15) ? this.#delivered : this.#undelivered);
    else if (roll < 75) this.#hear(dice.chance(0.15));
    else if (roll < 87) this.saga.advance(dice.below(dice.chance(0.2) ? 3_000 : 300));
    else if (roll < 92) this.saga.signal(dice.pick(SAGA_SIGNALS), {});
    else if (roll < 94) this.saga.cancel(`c${dice.below(3)}`);
    else this.#verb();
    this.#publish();
  }

  /** Faults stop (I12): everything is delivered and answered well. @returns when the saga has ended. */
  settleDown(): void {
    this.#isCalm = true;
    const { saga } = this;
    if (saga.live.paused) saga.operator({ verb: 'resume' });
    for (let round = 0; round < MAX_ROUNDS; round++) {
      this.#publish();
      if (saga.status === 'completed' || saga.status === 'compensated') return;
      const before = saga.log.length;
      while (this.#undelivered.length > 0) this.#deliver(this.#undelivered);
      while (this.#replies.length > 0) this.#hear(false);
      this.#completePending();
      if (saga.log.length !== before) continue;
      if (saga.status === 'stuck') this.#free();
      else saga.advance(1_000);
    }
    assert.fail(
      `I12: the saga neither ended nor is stuck; it is ${saga.status} in ${saga.value}, with ${saga
        .calls()
        .map(({ name, call }) => `${name} ${call.status}`)
        .join()}`,
    );
  }

  /** The books of the participant against the end that the log tells. */
  checkEffects(): void {
    if (this.isOverridden) return;
    const left = new Set<string>();
    for (const event of this.saga.events()) {
      if (event.type === 'StepGivenUp' || event.type === 'StepSuperseded')
        left.add(event.commandId);
    }
    for (const [id, entry] of this.#entries) {
      const stands = entry.outcome === 'done' && !entry.isUndone;
      const stepClass = this.#classes.get(id);
      if (stepClass === 'compensatable' && (this.saga.status === 'compensated' || left.has(id))) {
        assert.ok(!stands, `I6: ${id} stands at the end of a ${this.saga.status} saga`);
      }
      if (stepClass === 'pivot' && this.saga.status === 'compensated') {
        assert.ok(!stands, `I7: the pivot ${id} was done, and the saga compensated`);
      }
      assert.ok(!entry.isUndone || entry.outcome === 'done', 'only what was done is undone');
    }
  }

  #publish(): void {
    const sent = this.saga.sent();
    this.#undelivered.push(...sent.slice(this.#read));
    this.#read = sent.length;
    for (const event of this.saga.events()) {
      if (event.type === 'StepRequested') this.#classes.set(event.commandId, event.class);
    }
  }

  #deliver(queue: SentCommand[]): void {
    if (queue.length === 0) return;
    const index = this.#dice.below(queue.length);
    const command = queue[index] as SentCommand;
    if (queue === this.#undelivered) {
      this.#undelivered.splice(index, 1);
      this.#delivered.push(command);
    }
    const answer = this.#handle(command);
    this.#replies.push({ commandId: command.commandId, answer, attempt: command.attempt });
  }

  #handle({ commandId, op }: SentCommand): Answer {
    const of = commandId.replace(/\.[cs]$/, '');
    const entry = this.#entries.get(of) ?? { isUndone: false };
    this.#entries.set(of, entry);
    const crashes = !this.#isCalm && this.#dice.chance(0.25);
    if (crashes) return failed(this.#dice.chance(0.9));
    if (op === 'do') return this.#do(of, entry);
    if (op === 'settle') {
      if (entry.outcome === 'pending') return { outcome: 'pending' };
      entry.outcome ??= 'barred';
      return answerOf(of, entry);
    }
    if (entry.outcome === 'done') entry.isUndone = true;
    entry.outcome ??= 'barred';
    return { outcome: 'succeeded', output: {} };
  }

  #do(of: string, entry: Entry): Answer {
    if (entry.outcome !== undefined) return answerOf(of, entry);
    const mayRefuse = this.#classes.get(of) !== 'retriable';
    if (!this.#isCalm && this.#dice.chance(0.15)) entry.outcome = 'pending';
    else if (mayRefuse && this.#dice.chance(this.#isCalm ? 0.05 : 0.15)) entry.outcome = 'rejected';
    else entry.outcome = 'done';
    return answerOf(of, entry);
  }

  #completePending(): void {
    for (const [of, entry] of this.#entries) {
      if (entry.outcome !== 'pending') continue;
      entry.outcome = 'done';
      this.#replies.push({ commandId: of, answer: answerOf(of, entry), attempt: 1 });
    }
  }

  #hear(repeats: boolean): void {
    const queue = repeats ? this.#repeats : this.#replies;
    if (queue.length === 0) return;
    const index = this.#dice.below(queue.length);
    const { commandId, answer, attempt } = queue[index] as Reply;
    if (!repeats) this.#repeats.push(...queue.splice(index, 1));
    this.saga.reply(commandId, answer, attempt);
  }

  #verb(): void {
    const { saga } = this;
    const dice = this.#dice;
    const stuck = saga.calls().filter(({ call }) => call.status === 'stuck');
    const roll = dice.below(10);
    if (stuck.length > 0 && roll < 6) {
      saga.operator({ verb: 'retry', commandId: dice.pick(stuck).call.commandId });
    } else if (roll < 9) {
      saga.operator({ verb: saga.live.paused ? 'resume' : 'pause' });
    } else if (saga.calls().length > 0) {
      this.isOverridden = true;
      const { commandId } = dice.pick(saga.calls()).call;
      saga.operator({ verb: 'resolve', commandId, output: {} });
    }
  }

  /** What is stuck has a reason to show; a person retries it, and now it works. */
  #free(): void {
    const { saga } = this;
    assert.ok((stuckReason(saga.live)?.code ?? '') !== '', 'I12: stuck for a reason that is shown');
    assert.equal(saga.live.faulted, undefined, 'these machines have no fault');
    for (const { call } of saga.calls()) {
      if (call.status === 'stuck') saga.operator({ verb: 'retry', commandId: call.commandId });
    }
  }
}

function answerOf(of: string, entry: Entry): Answer {
  switch (entry.outcome) {
    case 'done':
      return { outcome: 'succeeded', output: { of } };
    case 'rejected':
      return { outcome: 'rejected', failure: { code: 'No', message: '', data: {} } };
    case 'pending':
      return { outcome: 'pending' };
    default:
      return { outcome: 'superseded' };
  }
}

function failed(retryable: boolean): Answer {
  return { outcome: 'failed', failure: { code: 'Crash', message: '' }, retryable };
}
