/** Orders for tests of the engine on real services: an input, answers that let it succeed, and what its log must hold. */
import assert from 'node:assert/strict';
import type pg from 'pg';
import type { CommandBody } from '../../engine/core/wire.ts';
import type { Answer } from '../support/participants.ts';

export const ORDER_SERVICES = ['inventory', 'payments', 'shipping', 'notifications'];

export const orderInput = {
  orderId: 'o-1',
  email: 'ann@example.com',
  sku: 'book',
  quantity: 1,
  amountCents: 5_000,
  card: '4242',
  address: { name: 'Ann', street: 'Way 1', city: 'Ulm', postalCode: '89073', country: 'DE' },
};

const OUTPUTS: { [command: string]: object } = {
  'inventory.reserve-stock': { reservationId: 'r-1' },
  'payments.charge-card': { paymentId: 'p-1' },
  'shipping.ship-order': { trackingId: 't-1' },
  'notifications.send-receipt': { messageId: 'm-1' },
};

export function happyOrder(command: CommandBody): Answer {
  return { outcome: 'succeeded', output: OUTPUTS[command.command] ?? {} };
}

/** The whole stream of an order that succeeds: no step twice, whatever was delivered twice. */
export const ORDER_EVENTS = [
  'SagaStarted',
  'StepRequested',
  'StepSucceeded',
  'StepRequested',
  'StepSucceeded',
  'StepRequested',
  'StepSucceeded',
  'StepRequested',
  'StepSucceeded',
  'SagaCompleted',
];

/** I1 and I2 over the whole log: no gap in any stream or shard, and epochs that never go down. */
export async function checkShards(pool: pg.Pool): Promise<void> {
  const gaps = await pool.query(
    `SELECT saga_id FROM sagax.events GROUP BY saga_id
      HAVING max(stream_version) <> count(*) OR min(stream_version) <> 1`,
  );
  assert.deepEqual(gaps.rows, [], 'I1: a stream has a gap');
  const shards = await pool.query(
    `SELECT shard FROM sagax.events GROUP BY shard
      HAVING max(shard_seq) <> count(*) OR min(shard_seq) <> 1 OR count(DISTINCT shard_seq) <> count(*)`,
  );
  assert.deepEqual(shards.rows, [], 'I1: a shard has a gap');
  const epochs = await pool.query(
    `SELECT shard, shard_seq FROM
      (SELECT shard, shard_seq, epoch, lag(epoch) OVER (PARTITION BY shard ORDER BY shard_seq) AS before FROM sagax.events) e
      WHERE epoch < before`,
  );
  assert.deepEqual(epochs.rows, [], 'I2: an epoch went down');
}
