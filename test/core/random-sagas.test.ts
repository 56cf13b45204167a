/** Random sagas against random participants: the driver's checks at every input, and an end for every one (I12). */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Dice } from '../support/dice.ts';
import { SAGA_SIGNALS, randomSaga } from '../support/random-saga.ts';
import { RandomWorld } from '../support/random-world.ts';
import { SagaDriver } from '../support/saga-driver.ts';
import { define } from './machines.ts';

/** SAGAX_PROPERTY_RUNS asks for more, in a night's run. */
const RUNS = Number(process.env['SAGAX_PROPERTY_RUNS'] ?? 250);

function run(seed: number, stirs: number): { saga: SagaDriver; world: RandomWorld } {
  const dice = new Dice(seed);
  const machine = randomSaga(dice);
  const signals = SAGA_SIGNALS.filter((name) => machine.events.includes(name as never));
  const saga = SagaDriver.start(define(machine, { signals }), {}, { replayEvery: 25, seed });
  const world = new RandomWorld(saga, dice);
  for (let n = 0; n < stirs; n++) world.stir();
  world.settleDown();
  saga.checkReplay();
  expect(saga.count('InputFaulted')).toBe(0);
  world.checkEffects();
  const mayComplete = machine.events.includes('saga.cancel') || !takesCancel(saga);
  expect(mayComplete || saga.status === 'compensated').toBe(true);
  return { saga, world };
}

/** Whether a cancel was taken that was not refused: it is a failure before the pivot (SEMANTICS 4.2). */
function takesCancel(saga: SagaDriver): boolean {
  const refused = new Set(
    saga.events().flatMap((event) => (event.type === 'CancelRefused' ? [event.requestId] : [])),
  );
  return saga
    .events()
    .some((event) => event.type === 'CancelRequested' && !refused.has(event.requestId));
}

test('whatever comes, the invariants hold, and when all answer, every saga ends', () => {
  const seen = new Map<string, number>();
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0x7fffffff }), fc.nat({ max: 120 }), (seed, stirs) => {
      const { saga } = run(seed, stirs);
      for (const type of new Set([...saga.types(), saga.status])) {
        seen.set(type, (seen.get(type) ?? 0) + 1);
      }
    }),
    { numRuns: RUNS },
  );
  // A test that met none of these would say nothing about them.
  for (const type of [
    'completed',
    'compensated',
    'StepRejected',
    'StepGivenUp',
    'StepSuperseded',
    'StepSettled',
    'StepPending',
    'StepTimedOut',
    'CompensationFailed',
    'CancelRefused',
    'InputDeferred',
    'SagaStuck',
    'SagaUnstuck',
    'TimerFired',
    'TimerCleared',
    'DomainEventEmitted',
  ]) {
    expect.soft(seen.get(type) ?? 0, `${type} was met`).toBeGreaterThan(0);
  }
}, 120_000);
