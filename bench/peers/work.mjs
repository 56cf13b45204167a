/**
 * What a participant of the peers does for one step: the same durable work as a transactional handler of
 * Sagax, an inbox row that makes a repeat harmless and a business row, committed together.
 */
import pg from 'pg';

/** Connections of a participant to its database; the same for every system. */
const CONNECTIONS = Number(process.env.BENCH_CONNECTIONS ?? 20);

const SCHEMA = `
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.inbox (
  command_id text PRIMARY KEY, command text NOT NULL, input jsonb NOT NULL, answer jsonb, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS bench.bookings (
  booking_id text PRIMARY KEY, order_id text NOT NULL, kind text NOT NULL, state text NOT NULL DEFAULT 'held');
`;

export async function openWork() {
  const pool = new pg.Pool({ connectionString: process.env.BENCH_DATABASE_URL, max: CONNECTIONS });
  await pool.query(SCHEMA);
  return {
    /** @returns the answer: the first one, whenever the command is repeated. `{ rejected: code }` is a business "no". */
    perform: (command, commandId, input) => perform(pool, command, commandId, input),
    close: () => pool.end(),
  };
}

async function perform(pool, command, commandId, input) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const fresh = await client.query({
      name: 'inbox',
      text: 'INSERT INTO bench.inbox (command_id, command, input) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
      values: [commandId, command, input],
    });
    const answer = fresh.rowCount === 1 ? await book(client, command, commandId, input) : null;
    const stored =
      answer === null
        ? await client.query('SELECT answer FROM bench.inbox WHERE command_id = $1', [commandId])
        : await client.query({
            name: 'answer',
            text: 'UPDATE bench.inbox SET answer = $2 WHERE command_id = $1 RETURNING answer',
            values: [commandId, answer],
          });
    await client.query('COMMIT');
    return stored.rows[0].answer;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

async function book(client, command, commandId, input) {
  if (command === 'ship' && input.fail) return { rejected: 'Unserviceable' };
  if (input.bookingId !== undefined) {
    await client.query({
      name: 'release',
      text: `UPDATE bench.bookings SET state = 'released' WHERE booking_id = $1`,
      values: [input.bookingId],
    });
    return {};
  }
  await client.query({
    name: 'book',
    text: 'INSERT INTO bench.bookings (booking_id, order_id, kind) VALUES ($1, $2, $3)',
    values: [commandId, input.orderId, command],
  });
  return { bookingId: commandId };
}
