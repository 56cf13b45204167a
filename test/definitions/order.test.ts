/** The order machine on all its paths, by an author's means: no engine, no participants. */
import { describe, expect, it } from 'vitest';
import {
  APPROVAL_LIMIT_CENTS,
  order,
  orderInput,
  orderMachine,
} from '../../definitions/order/saga.ts';
import { rejection, runMachine, unvisited } from './run-machine.ts';

const STEPS = ['reserve', 'charge', 'ship', 'sendReceipt', 'compensate'];
const address = {
  name: 'Ada',
  street: 'Main St 1',
  city: 'Berlin',
  postalCode: '10115',
  country: 'DE',
};

function start(overrides: object = {}) {
  const input = orderInput.parse({
    orderId: 'o-1',
    email: 'ada@example.com',
    sku: 'book',
    quantity: 2,
    amountCents: 4_200,
    card: '4242-4242-4242-4242',
    address,
    ...overrides,
  });
  return runMachine(orderMachine, STEPS, input);
}
type Run = ReturnType<typeof start>;

async function charged(run: Run): Promise<void> {
  (await run.step('reserve')).give({ reservationId: 'res-1' });
  (await run.step('charge')).give({ paymentId: 'ch-1' });
}

async function cancelled(run: Run): Promise<unknown> {
  await run.at('compensating');
  (await run.step('compensate')).give(null);
  return run.output();
}

describe('order', () => {
  it('goes through all steps, each asked with what came before', async () => {
    const run = start();
    const reserve = await run.step('reserve');
    expect(reserve.input).toEqual({ orderId: 'o-1', sku: 'book', quantity: 2 });
    expect(run.actor.getSnapshot().hasTag('cancellable')).toBe(true);
    reserve.give({ reservationId: 'res-1' });
    const charge = await run.step('charge');
    expect(charge.input).toEqual({
      orderId: 'o-1',
      card: '4242-4242-4242-4242',
      amountCents: 4_200,
    });
    charge.give({ paymentId: 'ch-1' });
    const ship = await run.step('ship');
    expect(ship.input).toEqual({ orderId: 'o-1', reservationId: 'res-1', address });
    ship.give({ trackingId: 'parcel-1' });
    const receipt = await run.step('sendReceipt');
    expect(run.actor.getSnapshot().hasTag('past-pivot')).toBe(true);
    expect(receipt.input).toEqual({
      orderId: 'o-1',
      email: 'ada@example.com',
      amountCents: 4_200,
      paymentId: 'ch-1',
      trackingId: 'parcel-1',
    });
    receipt.give({ messageId: 'msg-1' });
    expect(await run.output()).toEqual({
      outcome: 'completed',
      reservationId: 'res-1',
      paymentId: 'ch-1',
      trackingId: 'parcel-1',
      reason: null,
    });
    expect(run.order()).toEqual(['reserve', 'charge', 'ship', 'sendReceipt']);
  });

  it('is cancelled when the stock is out, and keeps why', async () => {
    const run = start();
    (await run.step('reserve')).reject('OutOfStock', { available: 1 });
    expect(await cancelled(run)).toEqual({
      outcome: 'cancelled',
      reservationId: null,
      paymentId: null,
      trackingId: null,
      reason: rejection('OutOfStock', { available: 1 }),
    });
    expect(run.order()).toEqual(['reserve', 'compensate']);
  });

  it('is cancelled when the card is declined', async () => {
    const run = start();
    (await run.step('reserve')).give({ reservationId: 'res-1' });
    (await run.step('charge')).reject('CardDeclined', { declineCode: 'insufficient_funds' });
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      reservationId: 'res-1',
      paymentId: null,
      reason: rejection('CardDeclined', { declineCode: 'insufficient_funds' }),
    });
  });

  it('is cancelled when the address is not served, and notifies nobody', async () => {
    const run = start();
    await charged(run);
    (await run.step('ship')).reject('AddressUnserviceable', { country: 'AQ' });
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      paymentId: 'ch-1',
      trackingId: null,
      reason: rejection('AddressUnserviceable', { country: 'AQ' }),
    });
    expect(run.order()).toEqual(['reserve', 'charge', 'ship', 'compensate']);
  });

  it.each(['failed', 'timedOut'] as const)('is cancelled when a step has %s', async (kind) => {
    const run = start();
    (await run.step('reserve')).fail(kind, 'STEP_TIMED_OUT');
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      reason: { code: 'STEP_TIMED_OUT', message: 'STEP_TIMED_OUT.' },
    });
  });

  it('stays where it is while nothing is compensated, also when compensation fails', async () => {
    const run = start();
    (await run.step('reserve')).reject('OutOfStock', { available: 0 });
    await run.at('compensating');
    expect(run.actor.getSnapshot().hasTag('compensating')).toBe(true);
    expect(run.actor.getSnapshot().status).toBe('active');
    (await run.step('compensate')).give(null);
    await run.output();
  });
});

describe('an order above the approval limit', () => {
  const above = { amountCents: APPROVAL_LIMIT_CENTS + 1 };

  it('at the limit it does not wait for a person', async () => {
    const run = start({ amountCents: APPROVAL_LIMIT_CENTS });
    await charged(run);
    await run.step('ship');
    expect(run.order()).toEqual(['reserve', 'charge', 'ship']);
  });

  it('ships once it is approved', async () => {
    const run = start(above);
    await charged(run);
    await run.at({ placing: 'awaitingApproval' });
    expect(run.actor.getSnapshot().hasTag('waiting-for-person')).toBe(true);
    run.actor.send({ type: 'approve', by: 'grace' });
    await run.step('ship');
    expect(run.actor.getSnapshot().context.approvedBy).toBe('grace');
  });

  it('is cancelled when it is declined', async () => {
    const run = start(above);
    await charged(run);
    await run.at({ placing: 'awaitingApproval' });
    run.actor.send({ type: 'decline', by: 'grace', reason: 'looks odd' });
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      reason: { code: 'Declined', message: 'grace: looks odd' },
    });
  });

  it('is cancelled after a day, not a millisecond before', async () => {
    const run = start(above);
    await charged(run);
    await run.at({ placing: 'awaitingApproval' });
    run.clock.increment(86_400_000 - 1);
    expect(run.actor.getSnapshot().matches({ placing: 'awaitingApproval' })).toBe(true);
    run.clock.increment(1);
    expect(await cancelled(run)).toMatchObject({ reason: { code: 'ApprovalTimedOut' } });
  });

  it('takes the deadline from the input', async () => {
    const run = start({ ...above, approvalTimeoutMs: 1_500 });
    await charged(run);
    await run.at({ placing: 'awaitingApproval' });
    run.clock.increment(1_500);
    expect(await cancelled(run)).toMatchObject({ reason: { code: 'ApprovalTimedOut' } });
  });

  it('takes an approval only while it waits for one', async () => {
    const run = start(above);
    await run.step('reserve');
    const before = run.actor.getSnapshot();
    run.actor.send({ type: 'approve', by: 'grace' });
    expect(run.actor.getSnapshot().value).toEqual(before.value);
    await charged(run);
    await run.at({ placing: 'awaitingApproval' });
    expect(run.order()).toEqual(['reserve', 'charge']);
  });
});

describe('cancelling an order', () => {
  it('works in every state before the parcel is handed over', async () => {
    const reach: ((run: Run) => Promise<unknown>)[] = [
      (run) => run.step('reserve'),
      async (run) => {
        (await run.step('reserve')).give({ reservationId: 'res-1' });
        await run.step('charge');
      },
      async (run) => {
        await charged(run);
        await run.at({ placing: 'awaitingApproval' });
      },
    ];
    for (const go of reach) {
      const run = start({ amountCents: APPROVAL_LIMIT_CENTS + 1 });
      await go(run);
      run.actor.send({ type: 'saga.cancel', reason: 'changed my mind', by: 'ada' });
      expect(await cancelled(run)).toMatchObject({
        outcome: 'cancelled',
        reason: { code: 'CANCELLED', message: 'changed my mind' },
      });
    }
  });

  it('changes nothing once the parcel is on its way', async () => {
    const run = start();
    await charged(run);
    (await run.step('ship')).give({ trackingId: 'parcel-1' });
    await run.at('notifying');
    run.actor.send({ type: 'saga.cancel', reason: 'too late', by: 'ada' });
    (await run.step('sendReceipt')).give({ messageId: 'msg-1' });
    expect(await run.output()).toMatchObject({ outcome: 'completed', reason: null });
    expect(run.order()).not.toContain('compensate');
  });
});

describe('the order definition', () => {
  it('is accepted, with the services that its commands go to', () => {
    expect(order.services).toEqual(['inventory', 'notifications', 'payments', 'shipping']);
    expect([...order.actors.keys()].sort()).toEqual([...STEPS].sort());
    expect(Object.keys(order.signals)).toEqual(['approve', 'decline']);
    expect(order.hash).toMatch(/^[0-9a-f]{32}$/);
  });

  it('refuses an input that no order can have', () => {
    const good = {
      orderId: 'o-1',
      email: 'ada@example.com',
      sku: 'book',
      quantity: 1,
      amountCents: 100,
      card: '4242',
      address,
    };
    expect(order.input.safeParse(good).success).toBe(true);
    for (const bad of [
      { amountCents: 0 },
      { amountCents: 10.5 },
      { quantity: -1 },
      { email: 'nobody' },
      { address: { ...address, country: 'Germany' } },
      { approvalTimeoutMs: 0 },
      { approvalTimeoutMs: 365 * 86_400_000 + 1 },
    ]) {
      expect(order.input.safeParse({ ...good, ...bad }).success, JSON.stringify(bad)).toBe(false);
    }
  });

  it('had every one of its states visited by the tests above', () => {
    expect(unvisited(orderMachine)).toEqual([]);
  });
});
