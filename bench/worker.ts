/**
 * The participants of the benchmark as a process of their own, on the runtime that services use.
 *
 * Guards that nothing is skipped: transactional handlers, so that each command is a barrier row and a
 * business row in one transaction. Settings are those of `worker`; SIGTERM drains it.
 */
import { Closers, connect } from '../cli/connect.ts';
import { parseSettings } from '../cli/settings.ts';
import { createPool } from '../engine/postgres/index.ts';
import { createWorker, postgresStore, transactional, type Handler } from '../workers/index.ts';
import type { PgTx } from '../workers/index.ts';
import { charge, refund, release, reserve, ship } from './definitions.ts';

const SCHEMA = `
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.bookings (
  booking_id text PRIMARY KEY, order_id text NOT NULL, kind text NOT NULL, state text NOT NULL DEFAULT 'held');
`;

/** The business row of a step. */
async function book(
  tx: PgTx,
  kind: string,
  commandId: string,
  orderId: string,
): Promise<{ bookingId: string }> {
  await tx.query({
    name: 'book',
    text: 'INSERT INTO bench.bookings (booking_id, order_id, kind) VALUES ($1, $2, $3)',
    values: [commandId, orderId, kind],
  });
  return { bookingId: commandId };
}

async function takeBack(tx: PgTx, bookingId: string): Promise<Record<string, never>> {
  await tx.query({
    name: 'release',
    text: `UPDATE bench.bookings SET state = 'released' WHERE booking_id = $1`,
    values: [bookingId],
  });
  return {};
}

const handlers: Handler<PgTx>[] = [
  transactional(reserve, ({ tx, commandId, input }) =>
    book(tx, 'reserve', commandId, input.orderId),
  ),
  transactional(charge, ({ tx, commandId, input }) => book(tx, 'charge', commandId, input.orderId)),
  transactional(ship, async ({ tx, commandId, input, reject }) =>
    input.fail ? reject('Unserviceable', {}) : book(tx, 'ship', commandId, input.orderId),
  ),
  transactional(release, ({ tx, input }) => takeBack(tx, input.bookingId)),
  transactional(refund, ({ tx, input }) => takeBack(tx, input.bookingId)),
];

const closers = new Closers();
const settings = parseSettings(process.env);
const connections = await connect(settings, 'worker', closers);
const { bus, postgres, telemetry } = connections;
const pool = createPool({
  url: connections.databaseUrl,
  applicationName: 'bench-participants',
  max: settings.SAGAX_WORKER_CONCURRENCY,
  pipeline: true,
});
closers.add(() => pool.end());
await pool.query(SCHEMA);
const worker = createWorker({
  service: 'shop',
  store: postgresStore({ pool, schema: 'bench' }),
  handlers,
  bus,
  clock: postgres.clock,
  topicPrefix: settings.SAGAX_TOPIC_PREFIX,
  commandPartitions: settings.SAGAX_COMMAND_PARTITIONS,
  concurrency: settings.SAGAX_WORKER_CONCURRENCY,
  maxInFlight: settings.SAGAX_WORKER_CONCURRENCY * 8,
  log: telemetry.log,
});
closers.add(() => worker.drain(settings.SAGAX_DRAIN_MS));
await worker.start();
process.stdout.write('the workers run\n');
process.once('SIGTERM', () => {
  void closers.close().finally(() => process.exit());
});
