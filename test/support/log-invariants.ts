/**
 * What must hold of any saga's log, told from the events alone.
 *
 * Guards I3, I5, I6 and I7 independently of the core's own state: nothing of `engine/core` but the types is
 * used to judge, so a mistake there can't hide itself here.
 */
import assert from 'node:assert/strict';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { SagaEvent } from '../../engine/core/events.ts';

export interface Logged {
  event: SagaEvent;
  at: number;
}

/** One step's life in stream versions (1-based); undefined for what did not happen. */
interface Life {
  class: string;
  requested: number;
  succeeded?: number;
  closed?: number;
  givenUp?: number;
  compensationAsked?: number;
  attempts: Map<string, number>;
}

export function checkLog(log: readonly Logged[], definition: AnyDefinition): void {
  const lives = new Map<string, Life>();
  let pivotPassed = Infinity;
  let previousAt = -Infinity;
  for (const [index, { event, at }] of log.entries()) {
    const version = index + 1;
    assert.ok(at >= previousAt, 'time does not go back along a stream');
    previousAt = at;
    const ends = event.type === 'SagaCompleted' || event.type === 'SagaCompensated';
    assert.ok(!ends || version === log.length, 'I5: nothing follows the end');
    follow(lives, event, version);
    if (event.type === 'CompensationRequested')
      checkCompensation(lives, event.of, version, pivotPassed);
    if (pivotPassed === Infinity && passesPivot(lives, event)) pivotPassed = version;
    if (event.type === 'SagaCompensated') checkAllTakenBack(lives);
    if (event.type === 'SagaCompleted') checkCompleted(lives);
  }
  checkClasses(lives, log, definition);
}

function lifeOf(lives: Map<string, Life>, commandId: string): Life {
  const life = lives.get(commandId.replace(/\.[cs]$/, ''));
  assert.ok(life, `${commandId} belongs to a step that was requested (obligation first)`);
  return life;
}

function follow(lives: Map<string, Life>, event: SagaEvent, version: number): void {
  switch (event.type) {
    case 'StepRequested':
      assert.ok(!lives.has(event.commandId), 'I3: a command id names one request');
      lives.set(event.commandId, {
        class: event.class,
        requested: version,
        attempts: new Map([[event.commandId, 1]]),
      });
      return;
    case 'SettlementRequested':
    case 'CompensationRequested': {
      const life = lifeOf(lives, event.of);
      assert.ok(!life.attempts.has(event.commandId), 'settled once, compensated once');
      life.attempts.set(event.commandId, 1);
      if (event.type === 'CompensationRequested') life.compensationAsked = version;
      return;
    }
    case 'CommandRetried': {
      const { attempts } = lifeOf(lives, event.commandId);
      assert.equal(
        event.attempt,
        (attempts.get(event.commandId) ?? NaN) + 1,
        'I3: attempts count up',
      );
      attempts.set(event.commandId, event.attempt);
      return;
    }
    case 'StepSucceeded':
      return succeeded(lifeOf(lives, event.commandId), version);
    case 'StepGivenUp':
    case 'StepSuperseded': {
      const life = lifeOf(lives, event.commandId);
      life.givenUp = version;
      if (life.class === 'readOnly' || life.class === 'retriable') life.closed = version;
      return;
    }
    case 'StepRejected': {
      const life = lifeOf(lives, event.commandId);
      if (life.class !== 'retriable') life.closed = version;
      return;
    }
    case 'StepSettled': {
      const life = lifeOf(lives, event.commandId);
      if (event.settlement.outcome === 'succeeded') succeeded(life, version);
      else life.closed = version;
      return;
    }
    case 'CompensationSucceeded':
      lifeOf(lives, event.commandId).closed = version;
      return;
    case 'OperatorActed':
      return followVerb(lives, event.action, version);
    default:
      return;
  }
}

function followVerb(
  lives: Map<string, Life>,
  action: Extract<SagaEvent, { type: 'OperatorActed' }>['action'],
  version: number,
): void {
  if (action.verb !== 'resolve' && action.verb !== 'skip') return;
  const life = lifeOf(lives, action.commandId);
  if (action.commandId.endsWith('.c')) life.closed = version;
  else if (action.verb === 'skip' && action.commandId.endsWith('.s')) life.closed = version;
  else succeeded(life, version);
}

function succeeded(life: Life, version: number): void {
  assert.equal(life.succeeded, undefined, 'I4: a step succeeds once');
  life.succeeded = version;
  if (life.class !== 'compensatable') life.closed = version;
}

/** I6 and I7 for one CompensationRequested. */
function checkCompensation(
  lives: Map<string, Life>,
  of: string,
  version: number,
  pivotPassed: number,
): void {
  const life = lifeOf(lives, of);
  assert.equal(life.class, 'compensatable', 'I6: only what can be taken back is');
  assert.ok(life.succeeded !== undefined, 'I6: only what is known to be done is taken back');
  assert.ok(life.closed === undefined, 'I6: what is closed is not taken back');
  assert.ok(
    version < pivotPassed || life.givenUp !== undefined,
    'I7: past the pivot only given-up steps are taken back',
  );
  if (life.givenUp !== undefined) return;
  for (const [id, other] of lives) {
    const isLater = other.class === 'compensatable' && other.requested > (life.succeeded ?? 0);
    if (id === of || !isLater) continue;
    assert.ok(
      other.closed !== undefined,
      `I6: ${id} came after ${of} and must be taken back first`,
    );
  }
}

function passesPivot(lives: Map<string, Life>, event: SagaEvent): boolean {
  const isSuccess =
    event.type === 'StepSucceeded' ||
    (event.type === 'StepSettled' && event.settlement.outcome === 'succeeded') ||
    (event.type === 'OperatorActed' && event.action.verb === 'resolve');
  if (!isSuccess) return false;
  const id =
    event.type === 'OperatorActed'
      ? (event.action as { commandId: string }).commandId
      : event.commandId;
  return lifeOf(lives, id).class === 'pivot';
}

function checkAllTakenBack(lives: Map<string, Life>): void {
  for (const [id, life] of lives) {
    if (life.class !== 'compensatable') continue;
    assert.ok(life.closed !== undefined, `I6: ${id} is open at the end of a compensated saga`);
  }
}

/** What was given up is no part of what was agreed: it is settled and taken back before any end. */
function checkCompleted(lives: Map<string, Life>): void {
  for (const [id, life] of lives) {
    if (life.givenUp === undefined || life.class === 'retriable') continue;
    assert.ok(life.closed !== undefined, `${id} was given up and is open at the end`);
  }
}

function checkClasses(
  lives: Map<string, Life>,
  log: readonly Logged[],
  definition: AnyDefinition,
): void {
  const pivots = [...lives.values()].filter((life) => life.class === 'pivot' && life.succeeded);
  assert.ok(pivots.length <= 1, 'I7: one pivot succeeds at most');
  for (const { event } of log) {
    if (event.type !== 'StepRequested') continue;
    const spec = definition.actors.get(event.step);
    const owes = spec?.kind === 'step' ? spec.compensation?.contract.name : undefined;
    assert.equal(
      event.compensateWith,
      owes,
      'obligation first: the request names its compensation',
    );
  }
}
