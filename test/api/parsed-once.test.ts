/** Schemas that transform: what the API checks and what the engine applies come from one parse, whichever does it (I4). */
import { describe, expect, it } from 'vitest';
import { assign, setup } from 'xstate';
import { z } from 'zod';
import { command, defineSaga, pivot, type AnyDefinition } from '../../engine/core/index.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { no, SagaDriver } from '../support/saga-driver.ts';
import { openApi } from './support.ts';

const SAGA = composeSnowflake(Date.UTC(2025, 5, 1), 1, 0);
/** A text of digits to twice its number: neither taken twice nor the same when given twice. */
const twice = z.string().transform((text) => Number(text) * 2);

const weigh = command('scales.weigh', {
  input: z.object({}),
  output: z.object({ grams: twice }),
  rejections: { TooHeavy: z.object({ most: twice }) },
});

function parcel(signal: z.ZodObject = z.object({ grams: twice })): AnyDefinition {
  return defineSaga({
    name: 'parcel',
    version: 1,
    input: z.object({ grams: twice }),
    signals: { reweigh: signal },
    machine: setup({
      types: { context: {} as { seen: unknown[] }, input: {} as { grams: number } },
      actors: { weigh: pivot(weigh) },
    }).createMachine({
      context: ({ input }) => ({ seen: [input.grams] }),
      initial: 'waiting',
      states: {
        waiting: {
          on: {
            reweigh: {
              target: 'weighing',
              actions: assign(({ context, event }) => ({
                seen: [...context.seen, (event as unknown as { grams: number }).grams],
              })),
            },
          },
        },
        weighing: {
          invoke: {
            src: 'weigh',
            input: {},
            onDone: {
              target: 'weighed',
              actions: assign(({ context, event }) => ({
                seen: [...context.seen, event.output.grams],
              })),
            },
            onError: 'failed',
          },
        },
        weighed: { type: 'final' },
        failed: { type: 'final' },
      },
    }),
  }) as AnyDefinition;
}

async function opened(definition = parcel(), input = { grams: 1 }) {
  const api = await openApi({ definitions: [definition] });
  const saga = SagaDriver.start(definition, input, { sagaId: SAGA });
  api.become({ sagaId: SAGA, definition: 'parcel', definitionVersion: 1 });
  const post = (url: string, payload: object) => api.app.inject({ method: 'POST', url, payload });
  /** Gives the engine what the API has put into the inbox last. */
  const pass = () => {
    const last = api.inbox().at(-1);
    if (last === undefined) throw new Error('nothing was put into the inbox');
    return saga.send(last).kind;
  };
  return { api, saga, post, pass };
}

describe('a schema that transforms is applied once to', () => {
  it('the input of a start', async () => {
    const { api, post } = await opened();
    await post('/v1/sagas', { definition: 'parcel', input: { grams: '5' } });
    const [start] = api.inbox();
    if (start?.type !== 'start') throw new Error('no start');
    const saga = SagaDriver.start(parcel(), start.body.input, { sagaId: start.body.sagaId });
    expect(saga.context).toEqual({ seen: [10] });
    const batch = { items: [{ definition: 'parcel', input: { grams: '6' } }] };
    await post('/v1/sagas/batch', batch);
    expect(api.inbox()[1]?.body).toMatchObject({ input: { grams: 12 } });
  });

  it('the payload of a signal', async () => {
    const { saga, post, pass } = await opened();
    const { statusCode } = await post(`/v1/sagas/${SAGA}/signals/reweigh`, { grams: '7' });
    expect([statusCode, pass()]).toEqual([202, 'accepted']);
    expect(saga.last('SignalReceived').payload).toEqual({ grams: 14 });
    expect(saga.context).toEqual({ seen: [1, 14] });
  });

  it('the output of a completed command', async () => {
    const { api, saga, post, pass } = await opened();
    saga.signal('reweigh', { grams: '7' });
    api.log(SAGA, ...saga.events());
    const answer = { outcome: 'succeeded', output: { grams: '8' } };
    const { statusCode } = await post(`/v1/commands/${SAGA}.1/complete`, answer);
    expect([statusCode, pass()]).toEqual([202, 'accepted']);
    expect(saga.context).toEqual({ seen: [1, 14, 16] });
    expect(saga.status).toBe('completed');
  });

  it('the output of a resolved command', async () => {
    const { api, saga, post, pass } = await opened();
    saga.signal('reweigh', { grams: '7' });
    api.log(SAGA, ...saga.events());
    const answer = { output: { grams: '8' }, reason: 'weighed by hand' };
    const { statusCode } = await post(`/v1/commands/${SAGA}.1/resolve`, answer);
    expect([statusCode, pass()]).toEqual([202, 'accepted']);
    expect(saga.context).toEqual({ seen: [1, 14, 16] });
  });

  it('the data of a rejection, which is kept as it was given', async () => {
    const { api, saga, post, pass } = await opened();
    saga.signal('reweigh', { grams: '7' });
    api.log(SAGA, ...saga.events());
    const failure = { code: 'TooHeavy', data: { most: '9' } };
    const { statusCode } = await post(`/v1/commands/${SAGA}.1/complete`, {
      outcome: 'rejected',
      failure,
    });
    expect([statusCode, pass()]).toEqual([202, 'accepted']);
    expect(saga.last('StepRejected').failure).toMatchObject(failure);
    // As from a participant.
    const other = SagaDriver.start(parcel(), { grams: 1 });
    other.signal('reweigh', { grams: '7' });
    other.reply('weigh', no('TooHeavy', { most: '9' }));
    expect(other.last('StepRejected').failure.data).toEqual({ most: '9' });
  });
});

it.each([
  ['waits for something', z.object({ grams: z.string().refine(() => Promise.resolve(true)) })],
  ['gives what is no JSON', z.object({ grams: z.string().transform(() => new Date(0)) })],
])('a signal whose schema %s is refused here, not there', async (_, schema) => {
  const { api, post } = await opened(parcel(schema));
  const { statusCode } = await post(`/v1/sagas/${SAGA}/signals/reweigh`, { grams: '7' });
  expect(statusCode).toBe(500);
  expect(api.published).toEqual([]);
});
