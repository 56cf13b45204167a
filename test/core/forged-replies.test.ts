/** Replies that their sender has no say in: refused, whatever they say, and nothing changes by them. */
import { expect, test } from 'vitest';
import { transfer } from '../../definitions/transfer/saga.ts';
import type { ReplyBody } from '../../engine/core/wire.ts';
import { SagaDriver } from '../support/saga-driver.ts';

const input = { transferId: 'x-1', from: 'a', to: 'b', amountCents: 100, email: 'a@example.org' };
const output = { entryId: 'e-1' };
const head = { sagaId: '7001', namespace: 'default', attempt: 1 };
const yes = (commandId: string): ReplyBody => ({
  ...head,
  commandId,
  outcome: 'succeeded',
  output,
});
const no = (commandId: string): ReplyBody => ({
  ...head,
  commandId,
  outcome: 'rejected',
  failure: { code: 'AccountClosed', message: '', data: { account: 'a' } },
});

test.each([yes, no])('a step is not answered by the worker of another service', (answer) => {
  const saga = SagaDriver.start(transfer, input);
  const body = answer('7001.1');
  expect(saga.send({ type: 'reply', body, service: 'bank-b' })).toMatchObject({
    kind: 'refused',
    code: 'COMMAND_UNKNOWN',
  });
  expect(saga.value).toBe('moving.debiting');
  expect(saga.send({ type: 'reply', body, service: 'bank-a' }).kind).toBe('accepted');
});

test('a compensation and a settlement are answered by the service that was asked', () => {
  const saga = SagaDriver.start(transfer, input);
  saga.advance(60_000);
  const settled = yes('7001.1.s');
  expect(saga.send({ type: 'reply', body: settled, service: 'bank-b' }).kind).toBe('refused');
  expect(saga.send({ type: 'reply', body: settled, service: 'bank-a' }).kind).toBe('accepted');
  const undone = yes('7001.1.c');
  expect(saga.send({ type: 'reply', body: undone, service: 'bank-b' }).kind).toBe('refused');
  expect(saga.send({ type: 'reply', body: undone, service: 'bank-a' }).kind).toBe('accepted');
  expect(saga.status).toBe('compensated');
});

test('whoever names no service of Sagax is taken by what he says alone', () => {
  const saga = SagaDriver.start(transfer, input);
  expect(saga.send({ type: 'reply', body: yes('7001.1') }).kind).toBe('accepted');
});
