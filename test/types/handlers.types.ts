/** Compile-time: handlers fit their contracts. Each mistake stands beside the same thing done right. */
import type pg from 'pg';
import type { Handler } from '../../workers/handlers.ts';
import { effect, transactional } from '../../workers/handlers.ts';
import type { Sql } from '../../workers/services/sql.ts';
import { notify, release, reserve } from './fixtures.ts';

export const right: Handler<Sql>[] = [
  transactional(reserve, async ({ input, tx, reject }) => {
    await tx.query('SELECT $1', [input.sku, input.quantity.toFixed()]);
    if (input.quantity > 5) return reject('OutOfStock', { available: 5 }, 'five left');
    if (input.quantity < 0) return reject('Withdrawn', { since: '2025-01-01' });
    return { reservationId: 'r' };
  }),
  transactional(release, async ({ input, original, tx }) => {
    await tx.query('SELECT $1', [input.reservationId, original?.commandId]);
    return {};
  }),
  effect(notify, async ({ input, idempotencyKey, fencingToken, heartbeat, pending }) => {
    await heartbeat({ sent: idempotencyKey, fencingToken });
    return input.to === '' ? pending() : { messageId: 'm' };
  }),
];

transactional(reserve, async ({ input }) => {
  // @ts-expect-error a field that the input does not have
  return { reservationId: input.id };
});
// @ts-expect-error an output of another shape
transactional(reserve, async () => ({ reservation: 'r' }));
// @ts-expect-error an output of another type
transactional(reserve, async () => ({ reservationId: 1 }));
// @ts-expect-error a handler always answers
transactional(reserve, async () => {});
// @ts-expect-error a code that the contract does not have
transactional(reserve, async ({ reject }) => reject('OutOfMoney', {}));
// @ts-expect-error data of another shape
transactional(reserve, async ({ reject }) => reject('OutOfStock', { left: 1 }));
// @ts-expect-error data is not left out
transactional(reserve, async ({ reject }) => reject('OutOfStock'));
// @ts-expect-error a contract without rejections has none
transactional(notify, async ({ reject }) => reject('OutOfStock', { available: 1 }));
// @ts-expect-error work through the database can't be answered later
transactional(notify, async ({ pending }) => pending());
// @ts-expect-error work elsewhere has no transaction
effect(notify, async ({ tx }) => ({ messageId: String(tx) }));
// @ts-expect-error an output of another shape
effect(notify, async () => ({ id: 'm' }));
effect(notify, async () => ({ messageId: 'm' }), { leaseMs: 60_000 });
// @ts-expect-error a lease is in milliseconds
effect(notify, async () => ({ messageId: 'm' }), { lease: '1m' });

// Handlers over the small interface run in a worker whose store gives pg clients, not the other way round.
export const forPg: Handler<pg.PoolClient>[] = right;
// @ts-expect-error a handler that needs pg's client is not given one by just any store
export const forSql: Handler<Sql>[] = forPg;
export const pool: Sql = {} as pg.Pool;
