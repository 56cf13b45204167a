/** The example sagas through the core: each way to their ends, and every point at which they can be interrupted. */
import { describe, expect, test } from 'vitest';
import { order } from '../../definitions/order/saga.ts';
import { transfer } from '../../definitions/transfer/saga.ts';
import { trip } from '../../definitions/trip/saga.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { Json } from '../../engine/core/json.ts';
import { SagaDriver, broken, neverRan, no, ok } from '../support/saga-driver.ts';

/** A right answer to each step. */
const OUTPUTS: { [step: string]: Json } = {
  reserve: { reservationId: 'res-1' },
  charge: { paymentId: 'pay-1' },
  ship: { trackingId: 'trk-1' },
  sendReceipt: { messageId: 'msg-1' },
  bookFlight: { bookingId: 'f-1', seat: '1A' },
  bookHotel: { bookingId: 'h-1' },
  rentCar: { bookingId: 'c-1' },
  capture: { paymentId: 'pay-2' },
  sendItinerary: { messageId: 'msg-2' },
  debit: { entryId: 'd-1' },
  credit: { entryId: 'k-1' },
};
/** A "no" that each step's contract has. */
const NOS: { [step: string]: [code: string, data: Json] } = {
  reserve: ['OutOfStock', { available: 0 }],
  charge: ['CardDeclined', { declineCode: 'limit' }],
  ship: ['AddressUnserviceable', { country: 'DE' }],
  bookFlight: ['FlightFull', { flight: 'LH1' }],
  bookHotel: ['NoVacancy', { hotel: 'H' }],
  rentCar: ['NoCarAvailable', { city: 'C', carClass: 'small' }],
  capture: ['CardDeclined', { declineCode: 'limit' }],
  debit: ['AccountClosed', { account: 'a' }],
  credit: ['AccountUnknown', { account: 'b' }],
};
const COMPENSATED: { [step: string]: Json } = {
  charge: { refundId: 'ref-1' },
  debit: { entryId: 'd-2' },
};

const address = { name: 'A', street: 'B', city: 'C', postalCode: '1', country: 'DE' };
const orderInput = {
  orderId: 'o-1',
  email: 'a@example.org',
  sku: 's-1',
  quantity: 1,
  amountCents: 5_000,
  card: '4242',
  address,
  approvalTimeoutMs: 86_400_000,
};
const tripInput = {
  tripId: 't-1',
  traveller: 'A',
  email: 'a@example.org',
  flight: 'LH1',
  hotel: 'H',
  city: 'C',
  carClass: 'small',
  nights: 2,
  amountCents: 90_000,
  card: '4242',
};
const transferInput = {
  transferId: 'x-1',
  from: 'a',
  to: 'b',
  amountCents: 100,
  email: 'a@example.org',
};

interface Example {
  definition: AnyDefinition;
  input: Json;
  /** Steps in the order in which they are answered. */
  steps: string[];
  pivot: string;
}
const EXAMPLES: { [name: string]: Example } = {
  order: {
    definition: order,
    input: orderInput,
    steps: ['reserve', 'charge', 'ship', 'sendReceipt'],
    pivot: 'ship',
  },
  trip: {
    definition: trip,
    input: tripInput,
    steps: ['rentCar', 'bookFlight', 'bookHotel', 'capture', 'sendItinerary'],
    pivot: 'capture',
  },
  transfer: {
    definition: transfer,
    input: transferInput,
    steps: ['debit', 'credit', 'sendReceipt'],
    pivot: 'credit',
  },
};

const right = (step: string) => ok(OUTPUTS[step] ?? {});
/** Answers what is open until nothing is: compensations succeed, settlements find nothing. */
function settle(saga: SagaDriver): void {
  for (let round = 0; round < 50 && saga.outstanding().length > 0; round++) {
    const name = saga.outstanding()[0] ?? '';
    const [step = '', op] = name.split(':');
    if (op === 'settle') saga.reply(name, neverRan);
    else if (op === 'compensate') saga.reply(name, ok(COMPENSATED[step] ?? {}));
    else saga.reply(name, right(step));
  }
}
const compensated = (saga: SagaDriver): string[] =>
  saga.sentNames().flatMap((name) => (name.endsWith(':compensate') ? [name.slice(0, -11)] : []));

describe.each(Object.entries(EXAMPLES))('%s', (_, { definition, input, steps, pivot }) => {
  const upTo = (count: number): SagaDriver => {
    const saga = SagaDriver.start(definition, input);
    for (const step of steps.slice(0, count)) saga.reply(step, right(step));
    return saga;
  };
  const before = steps.slice(0, steps.indexOf(pivot));

  test('all goes well', () => {
    const saga = upTo(steps.length);
    expect(saga.status).toBe('completed');
    expect(saga.last('SagaCompleted').output).toMatchObject({ outcome: 'completed', reason: null });
  });

  test.each(steps.slice(0, steps.indexOf(pivot) + 1))(
    '%s says no: what was done before is taken back',
    (step) => {
      const at = steps.indexOf(step);
      const saga = upTo(at);
      const [code = '', data] = NOS[step] ?? [];
      saga.reply(step, no(code, data));
      settle(saga);
      expect(saga.status).toBe('compensated');
      expect(compensated(saga).sort()).toEqual(steps.slice(0, at).sort());
      expect(saga.last('SagaCompensated').output).toMatchObject({
        outcome: 'cancelled',
        reason: { code },
      });
    },
  );

  test.each([...before.keys()])('cancelled after %i answers', (count) => {
    const saga = upTo(count);
    saga.cancel();
    settle(saga);
    expect(saga.status).toBe('compensated');
    expect(compensated(saga).sort()).toEqual(steps.slice(0, count).sort());
    expect(saga.last('SagaCompensated').output).toMatchObject({ reason: { code: 'CANCELLED' } });
  });

  test('cancelled while the pivot is in flight: its answer decides', () => {
    const saga = upTo(before.length);
    saga.cancel();
    expect(compensated(saga)).toEqual([]);
    saga.reply(pivot, right(pivot));
    settle(saga);
    expect(saga.status).toBe('completed');
    expect(saga.count('CancelRefused')).toBe(1);
  });

  test.each(before)('%s times out and is found to have been done', (step) => {
    const saga = upTo(steps.indexOf(step));
    saga.advance(3_600_000);
    expect(saga.outstanding('settle')).toContain(`${step}:settle`);
    saga.reply(`${step}:settle`, right(step));
    settle(saga);
    expect(saga.status).toBe('compensated');
    expect(compensated(saga)).toContain(step);
  });

  test('its last step fails to exhaustion: stuck, and a retry ends it', () => {
    const saga = upTo(steps.length - 1);
    const last = steps.at(-1) ?? '';
    for (let attempt = 1; attempt <= 28; attempt++) {
      saga.reply(last, broken());
      saga.advance(30_000);
    }
    expect(saga.status).toBe('stuck');
    saga.operator({ verb: 'retry', commandId: saga.commandId(last) });
    saga.reply(last, right(last));
    expect(saga.status).toBe('completed');
  });
});

describe('order: approval', () => {
  const waiting = (): SagaDriver => {
    const saga = SagaDriver.start(order, { ...orderInput, amountCents: 200_000 });
    saga.reply('reserve', right('reserve'));
    saga.reply('charge', right('charge'));
    expect(saga.value).toBe('placing.awaitingApproval');
    return saga;
  };
  test('approved', () => {
    const saga = waiting();
    expect(saga.signal('approve', {})).toMatchObject({ kind: 'refused', code: 'INPUT_INVALID' });
    saga.signal('approve', { by: 'Ada' });
    settle(saga);
    expect(saga.status).toBe('completed');
  });
  test.each([
    [
      'declined',
      (saga: SagaDriver) => void saga.signal('decline', { by: 'Ada', reason: 'no' }),
      'Declined',
    ],
    ['nobody came', (saga: SagaDriver) => saga.advance(86_400_000), 'ApprovalTimedOut'],
  ])('%s', (_, act, code) => {
    const saga = waiting();
    saga.advance(86_399_999);
    expect(saga.value).toBe('placing.awaitingApproval');
    act(saga);
    settle(saga);
    expect(compensated(saga)).toEqual(['charge', 'reserve']);
    expect(saga.last('SagaCompensated').output).toMatchObject({ reason: { code } });
  });
});

test('trip: the event that the trip is booked is told once, with the pivot', () => {
  const saga = SagaDriver.start(trip, { ...tripInput, carClass: null });
  expect(saga.outstanding()).toEqual(['bookFlight', 'bookHotel']);
  saga.reply('bookHotel', right('bookHotel'));
  saga.reply('bookFlight', right('bookFlight'));
  expect(saga.count('DomainEventEmitted')).toBe(0);
  saga.reply('capture', right('capture'));
  settle(saga);
  expect(saga.events().filter(({ type }) => type === 'DomainEventEmitted')).toEqual([
    {
      type: 'DomainEventEmitted',
      event: {
        type: 'TripBooked',
        tripId: 't-1',
        traveller: 'A',
        amountCents: 90_000,
        paymentId: 'pay-2',
      },
    },
  ]);
});
