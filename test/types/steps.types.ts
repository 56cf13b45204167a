/** Compile-time: steps fit their contracts. Each mistake stands beside the same thing done right. */
import { z } from 'zod';
import {
  command,
  compensatable,
  isRejection,
  pivot,
  readOnly,
  retriable,
} from '../../engine/core/index.ts';
import { notify, release, releaseBySku, reserve, ship } from './fixtures.ts';

// A compensation is mapped from what the step got and gave …
compensatable(reserve, {
  compensateWith: release,
  compensation: ({ output }) => ({ reservationId: output.reservationId }),
});
compensatable(reserve, {
  compensateWith: release,
  // @ts-expect-error a field that the compensation does not take
  compensation: ({ output }) => ({ reservation: output.reservationId }),
});
compensatable(reserve, {
  compensateWith: release,
  // @ts-expect-error a field that the step does not give
  compensation: ({ output }) => ({ reservationId: output.id }),
});
compensatable(reserve, {
  compensateWith: release,
  // @ts-expect-error of another type
  compensation: ({ input }) => ({ reservationId: input.quantity }),
});
// … and may be left out only where the step's own input will do.
compensatable(reserve, { compensateWith: releaseBySku });
// @ts-expect-error the step's input is not what the compensation takes, so a mapping is needed
compensatable(reserve, { compensateWith: release });
// @ts-expect-error a compensatable step needs what compensates it
compensatable(reserve, {});
// The step's input as its schema gives it: the default is filled in.
compensatable(reserve, {
  compensateWith: releaseBySku,
  compensation: ({ input }) => ({ sku: `${input.sku}:${input.quantity.toFixed()}` }),
});
// A compensation is retriable by definition: it can't say a business "no".
compensatable(notify, {
  // @ts-expect-error a contract with rejections can't be a compensation
  compensateWith: ship,
  compensation: () => ({ reservationId: '' }),
});

// A retriable step has no business "no".
retriable(notify);
// @ts-expect-error a contract with rejections can't be retriable
retriable(ship);

// The other classes take any contract.
pivot(ship, { timeout: '1m', retry: { maxAttempts: 3, initialInterval: '250ms', backoff: 1.5 } });
readOnly(reserve, { heartbeatTimeout: 5_000 });
// @ts-expect-error not a duration
pivot(ship, { timeout: '1 minute' });
// @ts-expect-error not a unit
pivot(ship, { timeout: '3w' });
// @ts-expect-error an option that does not exist
pivot(ship, { retries: 3 });
// @ts-expect-error a pivot is not compensated
pivot(ship, { compensateWith: release });

// Schemas are zod's.
command('a.b', { input: z.string(), output: z.null(), rejections: { No: z.string() } });
// @ts-expect-error a rejection is a schema
command('a.b', { input: z.string(), output: z.null(), rejections: { No: 'text' } });
// @ts-expect-error a contract says what it gives
command('a.b', { input: z.string() });

// A rejection narrows an error, with its data.
export function available(error: unknown): number {
  if (isRejection(error, reserve, 'OutOfStock')) return error.data.available;
  // @ts-expect-error nothing is known of it otherwise
  return error.data.available;
}
/** Its data is as it was given: what its schema would fill in or transform is not. */
const count = command('stock.count', {
  input: z.object({}),
  output: z.object({}),
  rejections: { Short: z.object({ by: z.string().transform(Number), of: z.number().default(1) }) },
});
export function short(error: unknown): number {
  if (!isRejection(error, count, 'Short')) return 0;
  // @ts-expect-error it may not be there
  const of: number = error.data.of;
  // @ts-expect-error it is a text
  const by: number = error.data.by;
  return Number(error.data.by) + (error.data.of ?? 1) + of + by;
}
export function narrowed(error: unknown): string {
  // @ts-expect-error a code that the contract does not have
  if (isRejection(error, reserve, 'OutOfMoney')) return 'none';
  if (isRejection(error, ship, 'Unserviceable')) return error.data.country;
  if (isRejection(error, reserve, 'Withdrawn')) {
    const code: 'Withdrawn' = error.code;
    // @ts-expect-error data of another rejection
    return `${code} ${error.data.available}`;
  }
  return '';
}
