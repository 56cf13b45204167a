/**
 * Cars: rents out what stands free in a city, and takes rentals back.
 *
 * Guards that a car is never promised twice, and that a rental is cancelled at most once.
 */
import { rentCar, returnCar } from '../../../definitions/trip/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { first, migrateFrom, type Sql } from '../sql.ts';

function carHandlers(): Handler<Sql>[] {
  return [
    transactional(rentCar, async ({ input, tx, commandId, reject }) => {
      const { tripId, city, carClass, days } = input;
      const bookingId = `car-${commandId}`;
      const rented = await first(
        tx,
        `WITH taken AS (
           UPDATE cars.fleet SET cars_free = cars_free - 1
            WHERE city = $2 AND car_class = $3 AND cars_free > 0 RETURNING city, car_class)
         INSERT INTO cars.rentals (booking_id, trip_id, city, car_class, days)
         SELECT $1, $4, city, car_class, $5 FROM taken RETURNING booking_id`,
        [bookingId, city, carClass, tripId, days],
      );
      if (rented === undefined) {
        return reject('NoCarAvailable', { city, carClass }, `No ${carClass} free in ${city}`);
      }
      return { bookingId };
    }),

    transactional(returnCar, async ({ input, tx }) => {
      const cancelled = await first(
        tx,
        `WITH cancelled AS (
           UPDATE cars.rentals SET state = 'cancelled', changed_at = now()
            WHERE booking_id = $1 AND state = 'booked' RETURNING city, car_class)
         UPDATE cars.fleet AS f SET cars_free = f.cars_free + 1
           FROM cancelled AS c WHERE f.city = c.city AND f.car_class = c.car_class RETURNING f.city`,
        [input.bookingId],
      );
      if (cancelled === undefined) {
        throw new Error(`Rental ${input.bookingId} is not booked; look into cars.rentals.`);
      }
      return {};
    }),
  ];
}

export const cars: ExampleService = {
  service: 'cars',
  schema: 'cars',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: carHandlers,
};
