/** What a payment gateway must do whatever keeps its books: run on memory and on SQL. */
import { expect, it } from 'vitest';
import {
  createGateway,
  GatewayRefusal,
  GatewayUnavailable,
  TEST_CARDS,
  type GatewayStorage,
} from '../../../workers/services/payments/gateway.ts';

/**
 * @param storage called in each case
 * @param operations how many operations the books have for keys that begin with `prefix`
 */
export function gatewayCases(
  storage: () => GatewayStorage,
  operations: (prefix: string) => Promise<number>,
): void {
  let cases = 0;
  /** Keys of its own for each case, so that cases may share their books. */
  function start() {
    const prefix = `case${++cases}-`;
    return {
      gateway: createGateway(storage()),
      caller: (key: string, fencingToken = '1') => ({
        idempotencyKey: prefix + key,
        fencingToken,
      }),
      chargeId: (key: string) => `ch_${prefix}${key}`,
      count: () => operations(prefix),
    };
  }

  it('gives the same answer to every repeat of a key, and charges once', async () => {
    const { gateway, caller, chargeId, count } = start();
    const request = { card: TEST_CARDS.charged, amountCents: 500 };
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => gateway.charge(caller('k1'), request)),
    );
    expect(answers[0]).toMatchObject({ status: 'succeeded', operationId: chargeId('k1') });
    for (const answer of answers) expect(answer).toEqual(answers[0]);
    expect(await count()).toBe(1);
  });

  it.each([
    [TEST_CARDS.declined, 'generic_decline'],
    [TEST_CARDS.insufficientFunds, 'insufficient_funds'],
    ['4000 0000 0000 0002', 'generic_decline'],
  ])('declines the card %s with %s, as often as it is asked', async (card, declineCode) => {
    const { gateway, caller, count } = start();
    for (const token of ['1', '2']) {
      const answer = await gateway.charge(caller('k1', token), { card, amountCents: 500 });
      expect(answer).toMatchObject({ status: 'declined', declineCode });
    }
    expect(await count()).toBe(1);
  });

  it('does nothing while it is unavailable, then charges', async () => {
    const { gateway, caller, count } = start();
    const request = { card: TEST_CARDS.unavailableTwice, amountCents: 500 };
    for (const token of ['1', '2']) {
      await expect(gateway.charge(caller('k1', token), request)).rejects.toThrow(
        GatewayUnavailable,
      );
      expect(await count()).toBe(0);
    }
    const answer = await gateway.charge(caller('k1', '3'), request);
    expect(answer).toMatchObject({ status: 'succeeded' });
  });

  it('charges once when its answer is lost', async () => {
    const { gateway, caller, count } = start();
    const request = { card: TEST_CARDS.answerLost, amountCents: 500 };
    await expect(gateway.charge(caller('k1'), request)).rejects.toThrow(GatewayUnavailable);
    expect(await count()).toBe(1);
    const answer = await gateway.charge(caller('k1', '2'), request);
    expect(answer).toMatchObject({ status: 'succeeded' });
    expect(await count()).toBe(1);
  });

  it('waits for the holder of some cards', async () => {
    const { gateway, caller } = start();
    const request = { card: TEST_CARDS.needsConfirmation, amountCents: 500 };
    expect(await gateway.charge(caller('k1'), request)).toMatchObject({
      status: 'awaitingHolder',
    });
  });

  it('refuses a key that comes with another request', async () => {
    const { gateway, caller } = start();
    await gateway.charge(caller('k1'), { card: TEST_CARDS.charged, amountCents: 500 });
    for (const request of [
      { card: TEST_CARDS.charged, amountCents: 501 },
      { card: TEST_CARDS.declined, amountCents: 500 },
    ]) {
      await expect(gateway.charge(caller('k1'), request)).rejects.toThrow(/used before/);
    }
  });

  it('turns away a worker that has lost the command to another, without counting it', async () => {
    const { gateway, caller } = start();
    const request = { card: TEST_CARDS.unavailableTwice, amountCents: 500 };
    await expect(gateway.charge(caller('k1', '10'), request)).rejects.toThrow(GatewayUnavailable);
    // As text, "9" would be greater.
    await expect(gateway.charge(caller('k1', '9'), request)).rejects.toThrow(GatewayRefusal);
    await expect(gateway.charge(caller('k1', '10'), request)).rejects.toThrow(GatewayUnavailable);
    const answer = await gateway.charge(caller('k1', '11'), request);
    expect(answer).toMatchObject({ status: 'succeeded' });
  });

  it('is not asked once the work is given up', async () => {
    const { gateway, caller, count } = start();
    const signal = AbortSignal.abort(new Error('lease lost'));
    const request = { card: TEST_CARDS.charged, amountCents: 500 };
    await expect(gateway.charge({ ...caller('k1'), signal }, request)).rejects.toThrow(
      'lease lost',
    );
    expect(await count()).toBe(0);
  });

  it('gives back all of a charge, once, and says the same to a repeat', async () => {
    const { gateway, caller, chargeId, count } = start();
    await gateway.charge(caller('k1'), { card: TEST_CARDS.charged, amountCents: 500 });
    const refund = await gateway.refund(caller('k2'), { chargeId: chargeId('k1') });
    expect(refund).toMatchObject({ kind: 'refund', amountCents: 500, status: 'succeeded' });
    expect(await gateway.refund(caller('k2'), { chargeId: chargeId('k1') })).toEqual(refund);
    await expect(gateway.refund(caller('k3'), { chargeId: chargeId('k1') })).rejects.toThrow(
      GatewayRefusal,
    );
    expect(await count()).toBe(2);
  });

  it('has nothing to give back for a charge that is unknown or was declined', async () => {
    const { gateway, caller, chargeId } = start();
    await gateway.charge(caller('k1'), { card: TEST_CARDS.declined, amountCents: 500 });
    for (const id of [chargeId('k1'), 'ch_other']) {
      await expect(gateway.refund(caller('k2'), { chargeId: id })).rejects.toThrow(/no charge/);
    }
  });
}
