/**
 * Inventory: holds stock for an order, and lets go of it.
 *
 * Guards that no article is promised twice: available stock never goes below zero, and a reservation
 * is released at most once (I8; the worker's barrier sees to repeats).
 */
import { releaseStock, reserveStock } from '../../../definitions/order/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function inventoryHandlers(): Handler<Sql>[] {
  return [
    transactional(reserveStock, async ({ input, tx, commandId, reject }) => {
      const reservationId = `res-${commandId}`;
      const held = await first(
        tx,
        `WITH taken AS (
           UPDATE inventory.stock SET available = available - $3::bigint
            WHERE sku = $2 AND available >= $3::bigint RETURNING sku)
         INSERT INTO inventory.reservations (reservation_id, order_id, sku, quantity)
         SELECT $1, $4, sku, $3::bigint FROM taken RETURNING reservation_id`,
        [reservationId, input.sku, input.quantity, input.orderId],
      );
      if (held !== undefined) return { reservationId };
      const stock = await first<{ available: string }>(
        tx,
        'SELECT available FROM inventory.stock WHERE sku = $1',
        [input.sku],
      );
      // An article we never had is out of stock too.
      const available = Number(stock?.available ?? 0);
      return reject('OutOfStock', { available }, `${available} of ${input.sku} left`);
    }),

    transactional(releaseStock, async ({ input, tx }) => {
      const released = await first(
        tx,
        `WITH released AS (
           UPDATE inventory.reservations SET state = 'released', changed_at = now()
            WHERE reservation_id = $1 AND state = 'held' RETURNING sku, quantity)
         UPDATE inventory.stock AS s SET available = s.available + r.quantity
           FROM released AS r WHERE s.sku = r.sku RETURNING s.sku`,
        [input.reservationId],
      );
      if (released === undefined) {
        throw new Error(
          `Reservation ${input.reservationId} is not held; look into inventory.reservations.`,
        );
      }
      return {};
    }),
  ];
}

export const inventory: ExampleService = {
  service: 'inventory',
  schema: 'inventory',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: inventoryHandlers,
};
