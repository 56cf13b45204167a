/** An example service as it is deployed: its own schema, its handlers, a worker on its own Postgres. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { releaseStock, reserveStock } from '../../definitions/order/contracts.ts';
import { systemClock } from '../../engine/memory/clock.ts';
import { postgresStore } from '../../workers/index.ts';
import { inventory } from '../../workers/services/inventory/service.ts';
import { openBench, type Bench } from './support/bench.ts';
import { commandFor, COMMANDS, messageFor } from './support/contracts.ts';
import { postgresRig, type PgRig } from './support/postgres-rig.ts';

let rig: PgRig;
let bench: Bench;
const TOPIC = COMMANDS.replace('shop', 'inventory');

beforeAll(async () => {
  rig = await postgresRig();
  bench = await openBench(systemClock);
  await inventory.migrate(rig.pool);
  await bench.start(
    postgresStore({ pool: rig.pool, schema: inventory.schema }),
    inventory.handlers({ outside: rig.pool }),
    { service: inventory.service },
  );
});
afterAll(async () => {
  await bench.close();
  await rig.close();
});

test('stock is reserved once, refused for good, and released once, whatever is sent twice', async () => {
  const available = async (sku: string): Promise<number> => {
    const text = 'SELECT available FROM inventory.stock WHERE sku = $1';
    const { rows } = await rig.pool.query<{ available: string }>(text, [sku]);
    return Number(rows[0]?.available);
  };
  const take = (sku: string, n: number): ReturnType<typeof commandFor> =>
    commandFor(reserveStock, { n, input: { orderId: `o-${n}`, sku, quantity: 1 } });
  const taken = take('last-one', 1);
  const refused = take('last-one', 2);
  const release = commandFor(releaseStock, {
    op: 'compensate',
    input: { reservationId: `res-${taken.commandId}` },
  });
  const sent = [taken, taken, refused, refused, release, release, taken];
  bench.broker.append(sent.map((command) => ({ ...messageFor(command), topic: TOPIC })));
  const replies = await bench.replies(sent.length);
  expect(replies.map((reply) => reply.outcome)).toEqual([
    'succeeded',
    'succeeded',
    'rejected',
    'rejected',
    'succeeded',
    'succeeded',
    'succeeded',
  ]);
  expect(await available('last-one')).toBe(1);
});
