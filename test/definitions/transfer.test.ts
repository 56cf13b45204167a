/** The transfer machine on all its paths, by an author's means: no engine, no participants. */
import { describe, expect, it } from 'vitest';
import { transfer, transferInput, transferMachine } from '../../definitions/transfer/saga.ts';
import { rejection, runMachine, unvisited } from './run-machine.ts';

const STEPS = ['debit', 'credit', 'sendReceipt', 'compensate'];

function start() {
  const input = transferInput.parse({
    transferId: 'x-1',
    from: 'alice',
    to: 'bob',
    amountCents: 500,
    email: 'alice@example.com',
  });
  return runMachine(transferMachine, STEPS, input);
}

async function cancelled(run: ReturnType<typeof start>): Promise<unknown> {
  await run.at('compensating');
  (await run.step('compensate')).give(null);
  return run.output();
}

describe('transfer', () => {
  it('debits, credits and tells the sender', async () => {
    const run = start();
    const debit = await run.step('debit');
    expect(debit.input).toEqual({ transferId: 'x-1', account: 'alice', amountCents: 500 });
    debit.give({ entryId: 'a-1' });
    const credit = await run.step('credit');
    expect(credit.input).toEqual({ transferId: 'x-1', account: 'bob', amountCents: 500 });
    credit.give({ entryId: 'b-1' });
    const receipt = await run.step('sendReceipt');
    expect(receipt.input).toEqual({
      transferId: 'x-1',
      email: 'alice@example.com',
      amountCents: 500,
      debitEntry: 'a-1',
      creditEntry: 'b-1',
    });
    receipt.give({ messageId: 'msg-1' });
    expect(await run.output()).toEqual({
      outcome: 'completed',
      debitEntry: 'a-1',
      creditEntry: 'b-1',
      reason: null,
    });
  });

  it('credits nobody when the sender has not enough', async () => {
    const run = start();
    (await run.step('debit')).reject('InsufficientFunds', { account: 'alice', balanceCents: 3 });
    expect(await cancelled(run)).toEqual({
      outcome: 'cancelled',
      debitEntry: null,
      creditEntry: null,
      reason: rejection('InsufficientFunds', { account: 'alice', balanceCents: 3 }),
    });
    expect(run.order()).toEqual(['debit', 'compensate']);
  });

  it('gives the money back when the receiver can take none', async () => {
    const run = start();
    (await run.step('debit')).give({ entryId: 'a-1' });
    (await run.step('credit')).reject('AccountClosed', { account: 'bob' });
    expect(await cancelled(run)).toMatchObject({
      outcome: 'cancelled',
      debitEntry: 'a-1',
      reason: rejection('AccountClosed', { account: 'bob' }),
    });
    expect(run.order()).toEqual(['debit', 'credit', 'compensate']);
  });

  it('can be cancelled before the credit', async () => {
    const run = start();
    await run.step('debit');
    run.actor.send({ type: 'saga.cancel', reason: 'wrong account', by: 'alice' });
    expect(await cancelled(run)).toMatchObject({
      reason: { code: 'CANCELLED', message: 'wrong account' },
    });
  });

  it('is accepted as a definition, and had every one of its states visited', () => {
    expect(transfer.services).toEqual(['bank-a', 'bank-b', 'notifications']);
    expect(unvisited(transferMachine)).toEqual([]);
  });
});
