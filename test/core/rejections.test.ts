/** A rejection is a business "no" only if the contract has it; anything else says nothing of what was done (SEMANTICS 4.3). */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import { z } from 'zod';
import { command, compensatable, pivot, readOnly } from '../../engine/core/index.ts';
import { SagaDriver, broken, neverRan, no, ok, type Answer } from '../support/saga-driver.ts';
import { actors, define, ends, hasty, undoing } from './machines.ts';

const contract = command('svc.do-x', {
  input: z.any(),
  output: z.looseObject({}),
  rejections: {
    SoldOut: z.object({ next: z.string().transform(() => new Date(0)) }),
    Closed: z.object({ since: z.string() }).optional(),
  },
});
const options = { retry: hasty, timeout: '5s' } as const;
const CLASSES = {
  compensatable: compensatable(contract, { ...options, compensateWith: undoing('x') }),
  pivot: pivot(contract, options),
  readOnly: readOnly(contract, options),
};
type ClassName = keyof typeof CLASSES;
const all = Object.keys(CLASSES) as ClassName[];
const settled = ['compensatable', 'pivot'] as const;

const begin = (name: ClassName) =>
  SagaDriver.start(
    define(
      setup({ actors: { ...actors, x: CLASSES[name] } as typeof actors }).createMachine({
        initial: 'x',
        context: { error: null },
        states: {
          x: {
            invoke: {
              src: 'x',
              input: {},
              onDone: 'passed',
              onError: {
                target: 'rest',
                actions: assign({
                  error: ({ event }: { event: { error?: unknown } }) => event.error,
                }),
              },
            },
          },
          passed: { on: { finish: 'done' } },
          rest: { on: { finish: 'undoing' } },
          ...ends,
        },
      } as never),
      { signals: ['finish'] },
    ),
  );

const MISFITS: [string, Answer][] = [
  ['a code that is not declared', no('NoMoney')],
  ['a name that every object has', no('toString')],
  ['data of another form', no('SoldOut', { next: 5 })],
  ['no data where some is declared', no('SoldOut')],
  ['data where there may be none, of another form', no('Closed', { since: 1 })],
];
const FITTING: [string, Answer][] = [
  ['data that fits', no('SoldOut', { next: 'Friday', more: 1 })],
  ['data that may be left out', no('Closed')],
  ['null for data that may be left out', no('Closed', null)],
];

describe.each(MISFITS)('%s', (_, misfit) => {
  test.each(all)('%s: an unknown outcome, not tried again, not taken for a "no"', (name) => {
    const saga = begin(name);
    saga.reply('x', misfit);
    expect(saga.count('StepRejected')).toBe(0);
    expect(saga.last('StepFailed')).toMatchObject({
      failure: { code: 'OUTPUT_INVALID' },
      retryable: false,
    });
    expect(saga.last('StepGivenUp').failure.code).toBe('STEP_ATTEMPTS_EXHAUSTED');
    expect(saga.count('CommandRetried')).toBe(0);
    expect(saga.outstanding()).toEqual(name === 'readOnly' ? [] : ['x:settle']);
  });

  test('it had been done after all: taken back with its real output', () => {
    const saga = begin('compensatable');
    saga.reply('x', misfit);
    expect(saga.context['error']).toMatchObject({ kind: 'failed' });
    saga.reply('x:settle', ok({ id: 1 }));
    expect(saga.outstanding()).toEqual(['x:compensate']);
  });

  test.each(settled)('%s: does not settle the step, late or as the settlement', (name) => {
    const saga = begin(name);
    saga.advance(5_000);
    expect(saga.reply('x', misfit).kind).toBe('ignored');
    saga.reply('x:settle', misfit);
    expect(saga.last('SettlementFailed')).toMatchObject({
      failure: { code: 'OUTPUT_INVALID' },
      retryable: false,
    });
    expect(saga.stuckCode).toBe('SETTLEMENT_FAILED');
    saga.operator({ verb: 'skip', commandId: saga.commandId('x:settle') });
    expect(saga.live.steps).toEqual({});
  });

  test.each(settled)('%s: to a call that waits for its next attempt it is nothing', (name) => {
    const saga = begin(name);
    saga.reply('x', broken());
    expect(saga.reply('x', misfit).kind).toBe('ignored');
    expect(saga.call('x').status).toBe('waiting');
  });
});

describe.each(FITTING)('%s', (_, answer) => {
  test.each(all)('%s: the machine hears the "no", with its data as it was given', (name) => {
    const saga = begin(name);
    saga.reply('x', answer);
    const { data } = (answer as Extract<Answer, { outcome: 'rejected' }>).failure;
    expect(saga.context['error']).toEqual({
      kind: 'rejected',
      code: saga.last('StepRejected').failure.code,
      message: saga.last('StepRejected').failure.message,
      ...(data === undefined ? {} : { data }),
    });
    expect(saga.live.steps).toEqual({});
  });

  test.each(settled)('%s: it settles the step, late or as the settlement', (name) => {
    for (const which of ['x', 'x:settle']) {
      const saga = begin(name);
      saga.advance(5_000);
      saga.reply(which, answer);
      expect(saga.last('StepSettled').settlement.outcome).toBe('rejected');
      expect(saga.live.steps).toEqual({});
    }
  });
});

test('that it never ran settles it too', () => {
  const saga = begin('pivot');
  saga.reply('x', no('NoMoney'));
  saga.reply('x:settle', neverRan);
  expect(saga.context['error']).toMatchObject({ kind: 'failed', code: 'STEP_ATTEMPTS_EXHAUSTED' });
});
