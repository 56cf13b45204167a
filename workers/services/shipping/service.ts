/**
 * Shipping: hands a parcel over to the carrier.
 *
 * Guards the point of no return of an order: a parcel that is handed over stays so, there is no
 * command to take it back.
 */
import { shipOrder } from '../../../definitions/order/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function shippingHandlers(): Handler<Sql>[] {
  return [
    transactional(shipOrder, async ({ input, tx, commandId, reject }) => {
      const { country } = input.address;
      const trackingId = `parcel-${commandId}`;
      const parcel = await first(
        tx,
        `INSERT INTO shipping.parcels (tracking_id, order_id, reservation_id, address)
         SELECT $1, $2, $3, $4::jsonb
          WHERE EXISTS (SELECT 1 FROM shipping.countries WHERE country = $5 AND served)
         RETURNING tracking_id`,
        [trackingId, input.orderId, input.reservationId, JSON.stringify(input.address), country],
      );
      if (parcel === undefined) {
        return reject('AddressUnserviceable', { country }, `We don't deliver to ${country}`);
      }
      return { trackingId };
    }),
  ];
}

export const shipping: ExampleService = {
  service: 'shipping',
  schema: 'shipping',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: shippingHandlers,
};
