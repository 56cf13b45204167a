/** What a machine wants sent and no message carries: a fault on record, not a command that nobody can take (I12). */
import { describe, expect, test } from 'vitest';
import { emit, setup } from 'xstate';
import { decodeCommand, encodeMessage, MAX_BODY_BYTES } from '../../engine/core/wire.ts';
import type { Json } from '../../engine/core/json.ts';
import { SagaDriver, ok } from '../support/saga-driver.ts';
import { actors, define, ends } from './machines.ts';

/** As many objects in one another. */
const nested = (levels: number): Json => (levels === 0 ? 1 : { in: nested(levels - 1) });
/** The longest text that a message carries beside its envelope is between these. */
const SHORT = 'x'.repeat(MAX_BODY_BYTES - 5_000);
const LONG = 'x'.repeat(MAX_BODY_BYTES);

/** Asks `a` what the input says, one level down; `stop` has it taken back, `tell` emits `more`. */
const asking = define(
  setup({ actors }).createMachine({
    initial: 'a',
    context: ({ input }: { input: object }) => ({ ...input }),
    on: { tell: { actions: emit(({ event }) => ({ ...event, type: 'told' })) } },
    states: {
      a: {
        invoke: {
          src: 'a',
          input: ({ context }: { context: { ask: unknown } }) => ({ in: context.ask }),
          onDone: 'rest',
          onError: 'undoing',
        },
      },
      rest: { on: { stop: 'undoing' } },
      ...ends,
    },
  } as never),
  { signals: ['tell', 'stop'] },
);

/** Throws as its participant would, for a command that can't be read. */
function receive(saga: SagaDriver, which: string): void {
  const sent = saga.sent().find(({ commandId }) => commandId === saga.commandId(which));
  if (sent === undefined) throw new Error(`${which} was not sent`);
  const { commandId, op, attempt, command, input } = sent;
  const { sagaId, now: at } = saga;
  const replyTo = { topic: 'inbox', partition: 1 };
  const of = op === 'do' ? {} : { of: `${sagaId}.1` };
  const body = { commandId, sagaId, namespace: 'default', command, op, ...of, attempt, input };
  const envelope = { type: 'sagax.command.v1', id: commandId, source: '/engine', at, sagaId };
  decodeCommand(encodeMessage(envelope, { ...body, replyTo }));
}

describe.each([
  ['too deep', nested(62), nested(63), nested(61), /nested deeper than 63 levels.*flatter/],
  ['too large', { x: SHORT }, { x: LONG }, { x: SHORT }, /too large.*claim check/],
])('%s', (_, most, tooMuch, wrappable, words) => {
  test('the input of a step', () => {
    const saga = SagaDriver.start(asking, { ask: most });
    expect(() => receive(saga, 'a')).not.toThrow();
    const faulted = SagaDriver.start(asking, { ask: tooMuch });
    expect(faulted.stuckCode).toBe('PAYLOAD_REFUSED');
    expect(faulted.last('InputFaulted').failure.message).toMatch(words);
    expect(faulted.sent()).toEqual([]);
  });

  test('the input of a compensation, which wraps what the step got and gave', () => {
    const saga = SagaDriver.start(asking, { ask: wrappable });
    saga.reply('a', ok());
    saga.signal('stop');
    expect(() => receive(saga, 'a:compensate')).not.toThrow();
    const faulted = SagaDriver.start(asking, { ask: most });
    faulted.reply('a', ok({ y: 'y'.repeat(10_000) }));
    faulted.signal('stop');
    expect(faulted.stuckCode).toBe('PAYLOAD_REFUSED');
    expect(faulted.last('InputFaulted').failure.message).toMatch(words);
    expect(faulted.sentNames()).toEqual(['a']);
  });

  test('an event that the machine emits', () => {
    const saga = SagaDriver.start(asking, { ask: {} });
    saga.signal('tell', { more: most });
    expect(saga.count('DomainEventEmitted')).toBe(1);
    saga.signal('tell', { more: tooMuch });
    expect(saga.stuckCode).toBe('PAYLOAD_REFUSED');
  });
});
