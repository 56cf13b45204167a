/** What a compensation is built from: the step's input as its schema gives it, whatever was sent. */
import { describe, expect, test } from 'vitest';
import { setup, type AnyActorLogic } from 'xstate';
import { z } from 'zod';
import { command, compensatable, compensateAll } from '../../engine/core/index.ts';
import { SagaDriver, ok } from '../support/saga-driver.ts';
import { define, ends } from './machines.ts';

describe('the step’s input, as its schema gives it,', () => {
  const input = z.object({
    sku: z.string(),
    quantity: z.number().default(1),
    until: z.string().transform((text) => ({ year: Number(text) })),
  });
  const reserve = command('svc.reserve', { input, output: z.looseObject({}) });
  const release = command('svc.release', { input: z.looseObject({}), output: z.any() });
  /** x is done, and taken back. */
  const takenBack = (x: AnyActorLogic, start: 'start' | 'startedBefore' = 'start') => {
    const saga = SagaDriver[start](
      define(
        setup({ actors: { x, back: compensateAll() } }).createMachine({
          initial: 'x',
          context: {},
          states: {
            x: {
              invoke: {
                src: 'x',
                input: { sku: 'tea', until: '2030', z: 1 },
                onDone: 'undoing',
                onError: 'undoing',
              },
            },
            ...ends,
          },
        } as never),
      ),
    );
    expect(saga.last('StepRequested').input).toEqual({ sku: 'tea', until: '2030', z: 1 });
    saga.reply('x', ok());
    return saga;
  };

  test('is what the compensation’s mapping gets', () => {
    const saga = takenBack(
      compensatable(reserve, {
        compensateWith: release,
        compensation: ({ input: { sku, quantity, until } }) => ({
          what: `${sku}:${quantity.toFixed()}:${until.year.toFixed()}`,
        }),
      }),
    );
    expect(saga.last('CompensationRequested').input).toEqual({ what: 'tea:1:2030' });
    saga.reply('x:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test('is the compensation’s input where there is no mapping', () => {
    const wanted = z.object({
      sku: z.string(),
      quantity: z.number(),
      until: z.object({ year: z.number() }),
    });
    const releaseAll = command('svc.release', { input: wanted, output: z.any() });
    const saga = takenBack(compensatable(reserve, { compensateWith: releaseAll }));
    expect(saga.last('CompensationRequested').input).toEqual({
      sku: 'tea',
      quantity: 1,
      until: { year: 2030 },
    });
    saga.reply('x:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test('was not, for a saga that was started by the rules before: its log stays as it is', () => {
    const saga = takenBack(compensatable(reserve, { compensateWith: release }), 'startedBefore');
    expect(saga.last('CompensationRequested').input).toEqual({ sku: 'tea', until: '2030', z: 1 });
  });
});
