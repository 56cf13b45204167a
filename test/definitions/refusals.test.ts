/**
 * Mistakes that an author of the order saga could make, and how each is refused at import: the state
 * is named and so is the remedy.
 */
import { createMachine, type AnyStateMachine } from 'xstate';
import { describe, expect, it } from 'vitest';
import { orderInput, orderMachine, orderSignals } from '../../definitions/order/saga.ts';
import { DefinitionFault, defineSaga } from '../../engine/core/index.ts';

/** A machine's config as data that a test may change. */
interface StateConfig {
  [key: string]: unknown;
  initial?: string;
  on?: { [event: string]: unknown };
  after?: { [delay: string]: unknown };
  entry?: unknown;
  always?: unknown;
  invoke?: { [key: string]: unknown };
  states: { [name: string]: StateConfig };
}

function copy<T>(value: T): T {
  if (Array.isArray(value)) return value.map((item: unknown) => copy(item)) as T;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, copy(item)])) as T;
}

function defineChanged(change: (order: StateConfig, placing: StateConfig) => void): void {
  const config = copy(orderMachine.config) as unknown as StateConfig;
  change(config, state(config, 'placing'));
  const machine = createMachine(
    config as never,
    orderMachine.implementations as never,
  ) as unknown as AnyStateMachine;
  defineSaga({
    name: 'order',
    version: 1,
    machine: machine as typeof orderMachine,
    input: orderInput,
    signals: orderSignals,
  });
}

function state(config: StateConfig, name: string): StateConfig {
  const found = config.states[name];
  if (found === undefined) throw new Error(`The order machine has no state "${name}".`);
  return found;
}

describe('an order machine with a mistake', () => {
  it('is accepted without one', () => {
    expect(() => defineChanged(() => undefined)).not.toThrow();
  });

  it.each<[string, (order: StateConfig, placing: StateConfig) => void, RegExp]>([
    [
      'a rejection has nowhere to go',
      (_, placing) => delete state(placing, 'reserving').invoke?.['onError'],
      /"placing\.reserving" invokes "reserve" without onError.*Add onError/,
    ],
    [
      'a late decline would compensate what is past the pivot',
      (order) => (order.on = { decline: '.compensating' }),
      /"compensating" invokes compensateAll\(\).*after the pivot of State "placing\.shipping"/,
    ],
    [
      'a deadline would compensate what is past the pivot',
      (order) => (state(order, 'notifying').after = { 1000: 'compensating' }),
      /"compensating" invokes compensateAll\(\).*after the pivot/,
    ],
    [
      'the card would be charged after the parcel has left',
      (order) => (state(order, 'notifying').on = { approve: '#order.placing.charging' }),
      /"placing\.charging" invokes the compensatable step.*after the pivot/,
    ],
    [
      'a state writes to the console',
      (order) => (state(order, 'notifying').entry = () => console.log('sent')),
      /"notifying" has an action with side effects.*Do the work in a participant/,
    ],
    [
      'a delay is not there',
      (_, placing) => (state(placing, 'awaitingApproval').after = { patience: 'shipping' }),
      /"placing\.awaitingApproval" waits for the delay "patience"/,
    ],
    [
      'a signal is handled nowhere',
      (_, placing) => delete state(placing, 'awaitingApproval').on?.['decline'],
      /signal "decline", but no state handles it/,
    ],
    [
      'it turns in a circle',
      (_, placing) => (state(placing, 'charged').always = { target: 'charged', reenter: true }),
      /"placing\.charged" is in a loop of "always"/,
    ],
    [
      'it uses a reserved event',
      (order) => (state(order, 'notifying').on = { 'saga.pause': 'completed' }),
      /"notifying" handles "saga\.pause".*reserved/,
    ],
  ])('is refused when %s', (_, change, message) => {
    expect(() => defineChanged(change)).toThrow(DefinitionFault);
    expect(() => defineChanged(change)).toThrow(message);
  });

  it('may handle a cancel everywhere: it is not told of one past the pivot', () => {
    expect(() =>
      defineChanged((order) => (order.on = { 'saga.cancel': '.compensating' })),
    ).not.toThrow();
  });

  it('is refused by xstate itself when a target is not there', () => {
    const change = (_: StateConfig, placing: StateConfig) => {
      state(placing, 'reserving').on = { approve: 'chargin' };
    };
    expect(() => defineChanged(change)).toThrow(/'chargin' does not exist on 'order\.placing'/);
  });
});
