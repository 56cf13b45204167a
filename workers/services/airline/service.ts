/**
 * Airline: sells the seats of a flight, and takes them back.
 *
 * Guards that a flight is never sold over its seats, and that a booking is cancelled at most once.
 */
import { bookFlight, cancelFlight } from '../../../definitions/trip/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function airlineHandlers(): Handler<Sql>[] {
  return [
    transactional(bookFlight, async ({ input, tx, commandId, reject }) => {
      const bookingId = `flight-${commandId}`;
      const booked = await first<{ seat: string }>(
        tx,
        `WITH taken AS (
           UPDATE airline.flights SET seats_free = seats_free - 1, seats_given = seats_given + 1
            WHERE flight = $2 AND seats_free > 0 RETURNING flight, seats_given)
         INSERT INTO airline.bookings (booking_id, trip_id, flight, seat, traveller)
         SELECT $1, $3, flight, (seats_given + 5) / 6 || substr('ABCDEF', (seats_given - 1) % 6 + 1, 1), $4
           FROM taken RETURNING seat`,
        [bookingId, input.flight, input.tripId, input.traveller],
      );
      if (booked === undefined) {
        return reject('FlightFull', { flight: input.flight }, `No seat left on ${input.flight}`);
      }
      return { bookingId, seat: booked.seat };
    }),

    transactional(cancelFlight, async ({ input, tx }) => {
      const cancelled = await first(
        tx,
        `WITH cancelled AS (
           UPDATE airline.bookings SET state = 'cancelled', changed_at = now()
            WHERE booking_id = $1 AND state = 'booked' RETURNING flight)
         UPDATE airline.flights AS f SET seats_free = f.seats_free + 1
           FROM cancelled AS c WHERE f.flight = c.flight RETURNING f.flight`,
        [input.bookingId],
      );
      if (cancelled === undefined) {
        throw new Error(`Booking ${input.bookingId} is not booked; look into airline.bookings.`);
      }
      return {};
    }),
  ];
}

export const airline: ExampleService = {
  service: 'airline',
  schema: 'airline',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: airlineHandlers,
};
