/** A person's answer for a command: it fits the contract as a participant's would, and a wrong one can be taken back. */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import { z } from 'zod';
import type { Decision } from '../../engine/core/decide.ts';
import { command, compensatable, retriable } from '../../engine/core/index.ts';
import type { Json } from '../../engine/core/json.ts';
import { SagaDriver, broken, ok } from '../support/saga-driver.ts';
import { actors, define, doStep, ends, hasty, oops, undoing } from './machines.ts';

/** The schema adds a mark each time it parses. */
const output = z.object({ id: z.string().transform((id) => `${id}!`) });
const input = z.looseObject({});
/** Its mapping throws on the id `bad!`. */
const x = compensatable(command('svc.do-x', { input, output }), {
  timeout: '1s',
  retry: hasty,
  compensateWith: undoing('x'),
  compensation: ({ output: { id } }) => (id === 'bad!' ? oops() : { id }),
});
const t = retriable(command('svc.tell-t', { input, output }), { retry: hasty });

/** x, then t; `onDone` of both throws on nothing and on the id `worse!`. */
const definition = define(
  setup({ actors: { ...actors, x, t } }).createMachine({
    id: 'm',
    initial: 'x',
    context: { ids: [] },
    states: {
      x: strictly('x', 't', 'undoing'),
      t: strictly('t', 'done'),
      ...ends,
    },
  } as never),
);

function strictly(src: string, done: string, failed?: string): object {
  const step = doStep(src, done, failed) as { invoke: object };
  const keep = assign({
    ids: ({
      context,
      event,
    }: {
      context: { ids: string[] };
      event: { [key: string]: unknown };
    }) => {
      const { id } = event['output'] as { id: string };
      return id === 'worse!' ? oops() : [...context.ids, id];
    },
  });
  return { invoke: { ...step.invoke, onDone: { target: done, actions: keep } } };
}

const resolve = (saga: SagaDriver, which: string, by?: Json): Decision =>
  saga.operator({
    verb: 'resolve',
    commandId: saga.commandId(which),
    ...(by === undefined ? {} : { output: by }),
  });
const skip = (saga: SagaDriver, which: string): Decision =>
  saga.operator({ verb: 'skip', commandId: saga.commandId(which) });

/** x was given up and its settlement is stuck. */
function unsettled(): SagaDriver {
  const saga = SagaDriver.start(definition);
  saga.advance(1_000);
  saga.reply('x:settle', ok('no object'));
  expect(saga.stuckCode).toBe('SETTLEMENT_FAILED');
  return saga;
}

/** t is out of attempts. */
function stuckInTail(): SagaDriver {
  const saga = SagaDriver.start(definition);
  saga.reply('x', ok({ id: 'x' }));
  saga.reply('t', broken(false));
  expect(saga.status).toBe('stuck');
  return saga;
}

describe('an answer that does not fit is refused, with what its schema says', () => {
  const wrong: [string, Json | undefined][] = [
    ['of another shape', { id: 7 }],
    ['null', null],
    ['none', undefined],
  ];
  test.each(wrong)('to a step: %s', (_, given) => {
    const saga = SagaDriver.start(definition);
    const before = saga.log.length;
    const decision = resolve(saga, 'x', given);
    expect(decision).toMatchObject({ kind: 'refused', code: 'INPUT_INVALID' });
    expect((decision as { why: string }).why).toMatch(/svc\.do-x does not fit: [^]*expected/);
    expect(saga.log).toHaveLength(before);
  });

  test.each(wrong)('to a settlement: %s', (_, given) => {
    const saga = unsettled();
    expect(resolve(saga, 'x:settle', given)).toMatchObject({
      kind: 'refused',
      code: 'INPUT_INVALID',
    });
    resolve(saga, 'x:settle', { id: 'x' });
    expect(saga.last('CompensationRequested').input).toEqual({ id: 'x!' });
  });

  test('one that fits is parsed once, and what is more is left out', () => {
    const saga = SagaDriver.start(definition);
    resolve(saga, 'x', { id: 'x', more: true });
    expect(saga.last('OperatorActed').action).toMatchObject({ output: { id: 'x!' } });
    expect(saga.context['ids']).toEqual(['x!']);
  });

  test('to a compensation none is needed', () => {
    const saga = unsettled();
    resolve(saga, 'x:settle', { id: 'x' });
    resolve(saga, 'x:compensate');
    expect(saga.status).toBe('compensated');
  });
});

describe('an answer on which the machine throws', () => {
  test('another takes its place; what the participant says meanwhile is dropped', () => {
    const saga = SagaDriver.start(definition);
    resolve(saga, 'x', { id: 'worse' });
    expect(saga.stuckCode).toBe('MACHINE_FAULT');
    saga.reply('x', ok({ id: 'true' }));
    saga.operator({ verb: 'retry' });
    expect(saga.count('InputFaulted')).toBe(2);
    resolve(saga, 'x', { id: 'good' });
    expect(saga.status).toBe('running');
    expect(saga.live.deferred).toEqual([]);
    expect(saga.context['ids']).toEqual(['good!']);
    expect(saga.outstanding()).toEqual(['t']);
  });

  test('another on which it throws too: the first is not kept behind it', () => {
    const saga = SagaDriver.start(definition);
    resolve(saga, 'x', { id: 'worse' });
    resolve(saga, 'x', { id: 'worse' });
    expect(saga.count('InputFaulted')).toBe(2);
    expect(saga.live.deferred).toEqual([]);
    resolve(saga, 'x', { id: 'good' });
    expect(saga.context['ids']).toEqual(['good!']);
  });

  test('a retriable step that was skipped answers nothing: it is resolved with an output', () => {
    const saga = stuckInTail();
    skip(saga, 't');
    expect(saga.last('InputFaulted').cause.type).toBe('OperatorActed');
    resolve(saga, 't', { id: 't' });
    expect(saga.context['ids']).toEqual(['x!', 't!']);
    expect(saga.status).toBe('completed');
  });

  test('a settlement that is then skipped', () => {
    const saga = unsettled();
    resolve(saga, 'x:settle', { id: 'bad' });
    expect(saga.stuckCode).toBe('MACHINE_FAULT');
    skip(saga, 'x:settle');
    expect(saga.status).toBe('compensated');
    expect(saga.count('CompensationRequested')).toBe(0);
  });

  test('in a pause it waits, as every word on a step does', () => {
    const saga = SagaDriver.start(definition);
    resolve(saga, 'x', { id: 'worse' });
    saga.operator({ verb: 'pause' });
    resolve(saga, 'x', { id: 'good' });
    expect(saga.value).toBe('x');
    saga.operator({ verb: 'resume' });
    resolve(saga, 'x', { id: 'better' });
    expect(saga.context['ids']).toEqual(['better!']);
  });

  test('a word on another command waits behind it', () => {
    const regions = define(
      setup({ actors: { ...actors, x, y: x } }).createMachine({
        id: 'm',
        type: 'parallel',
        context: { ids: [] },
        states: {
          one: { initial: 'x', states: { x: strictly('x', 'over', 'over'), over: {} } },
          two: { initial: 'y', states: { y: strictly('y', 'over', 'over'), over: {} } },
        },
      } as never),
    );
    const saga = SagaDriver.start(regions);
    resolve(saga, 'x', { id: 'worse' });
    resolve(saga, 'y', { id: 'y' });
    expect(saga.value).toBe('one.x,two.y');
    expect(saga.live.deferred).toHaveLength(1);
    resolve(saga, 'x', { id: 'x' });
    expect(saga.context['ids']).toEqual(['x!', 'y!']);
  });

  test('the participant’s own answer is not taken back by a person’s', () => {
    const saga = SagaDriver.start(definition);
    saga.reply('x', ok({ id: 'worse' }));
    resolve(saga, 'x', { id: 'good' });
    expect(saga.live.faulted?.cause.type).toBe('StepSucceeded');
    expect(saga.live.deferred).toHaveLength(1);
  });
});
