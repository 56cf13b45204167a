/**
 * Hotels: lets rooms, and takes them back.
 *
 * Guards that a house never lets more rooms than it has, and that a stay is cancelled at most once.
 */
import { bookHotel, cancelHotel } from '../../../definitions/trip/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function hotelHandlers(): Handler<Sql>[] {
  return [
    transactional(bookHotel, async ({ input, tx, commandId, reject }) => {
      const bookingId = `stay-${commandId}`;
      const booked = await first(
        tx,
        `WITH taken AS (
           UPDATE hotels.hotels SET rooms_free = rooms_free - 1
            WHERE hotel = $2 AND rooms_free > 0 RETURNING hotel)
         INSERT INTO hotels.stays (booking_id, trip_id, hotel, nights, traveller)
         SELECT $1, $3, hotel, $4, $5 FROM taken RETURNING booking_id`,
        [bookingId, input.hotel, input.tripId, input.nights, input.traveller],
      );
      if (booked === undefined) {
        return reject('NoVacancy', { hotel: input.hotel }, `No room left in ${input.hotel}`);
      }
      return { bookingId };
    }),

    transactional(cancelHotel, async ({ input, tx }) => {
      const cancelled = await first(
        tx,
        `WITH cancelled AS (
           UPDATE hotels.stays SET state = 'cancelled', changed_at = now()
            WHERE booking_id = $1 AND state = 'booked' RETURNING hotel)
         UPDATE hotels.hotels AS h SET rooms_free = h.rooms_free + 1
           FROM cancelled AS c WHERE h.hotel = c.hotel RETURNING h.hotel`,
        [input.bookingId],
      );
      if (cancelled === undefined) {
        throw new Error(`Stay ${input.bookingId} is not booked; look into hotels.stays.`);
      }
      return {};
    }),
  ];
}

export const hotels: ExampleService = {
  service: 'hotels',
  schema: 'hotels',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: hotelHandlers,
};
