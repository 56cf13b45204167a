/** jsonb does not keep the order of keys: nothing that a saga does may hang on it (I9). */
import { expect, test } from 'vitest';
import { assign, emit, setup } from 'xstate';
import { SagaDriver, ok } from '../support/saga-driver.ts';
import { actors, define, doStep, ends } from './machines.ts';

/** Walks keys, and makes some that are not in order. */
const keysSeen: object = {
  seen: ({ context, event }: { context: { seen: string }; event: object }) =>
    context.seen + Object.keys(event).join() + Object.keys(context).join(),
  zz: 1,
  a: 2,
  mmm: 3,
};

test.each(Array.from({ length: 20 }, (_, seed) => seed))(
  'regions, timers, contexts and payloads with keys in jsonb’s way (snapshots by seed %i)',
  (seed) => {
    const region = (src: string) => ({
      initial: 'rest',
      states: {
        // Entering is in document order whatever happens; what a transition itself does is not.
        rest: {
          on: { go: { target: 'asked', actions: emit({ type: `asks ${src}` }) } },
          after: { 5_000: 'asked' },
        },
        asked: doStep(src, 'over', 'over'),
        over: {
          on: { go: { target: 'asked', actions: emit({ type: `asks ${src} again` }) } },
        },
      },
    });
    const machine = define(
      setup({ actors }).createMachine({
        id: 'm',
        type: 'parallel',
        context: { seen: '' },
        on: {
          look: {
            actions: [
              assign(keysSeen),
              emit(({ context }: { context: object }) => ({
                type: 'seen',
                keys: Object.keys(context),
              })),
            ],
          },
        },
        states: { first: region('a'), b: region('b'), third: region('c'), dd: region('d') },
      } as never),
      { signals: ['go', 'look'] },
    );
    const saga = SagaDriver.start(machine, { zebra: 1, ant: 2 }, { seed });
    for (let round = 0; round < 3; round++) {
      saga.signal('look', { zebra: { y: 1, x: 2 }, ant: 1, bee: 2 });
      saga.signal('go');
      expect(saga.sentNames().slice(-4)).toEqual(['a', 'b', 'c', 'd']);
      for (const step of ['c', 'a', 'd', 'b']) saga.reply(step, ok({ z: 1, aa: 2 }));
    }
    saga.cancel();
    while (saga.calls().length > 0) saga.reply(saga.calls()[0]?.call.commandId ?? '', ok());
    expect(saga.status).toBe('compensated');
  },
);

test('timers cleared at the end are cleared in an order of their own', () => {
  const machine = define(
    setup({ actors }).createMachine({
      id: 'm',
      initial: 'rest',
      context: {},
      states: {
        rest: {
          type: 'parallel',
          on: { go: 'done' },
          states: {
            first: { after: { 90: {} } },
            b: { after: { 1_000: {} } },
            third: { after: { 5: {} } },
          },
        },
        ...ends,
        undoing: {},
      },
    } as never),
    { signals: ['go'] },
  );
  for (let seed = 0; seed < 30; seed++) {
    const saga = SagaDriver.start(machine, {}, { seed });
    saga.cancel();
    expect(saga.status).toBe('compensated');
  }
});
