/** Contracts that the compile-time tests speak of. */
import { z } from 'zod';
import { command } from '../../engine/core/index.ts';

export const reserve = command('stock.reserve', {
  input: z.object({ sku: z.string(), quantity: z.number().default(1) }),
  output: z.object({ reservationId: z.string() }),
  rejections: {
    OutOfStock: z.object({ available: z.number() }),
    Withdrawn: z.object({ since: z.string() }),
  },
});
export const release = command('stock.release', {
  input: z.object({ reservationId: z.string() }),
  output: z.object({}),
});
/** Takes back by what the step was asked, so it needs no mapping. */
export const releaseBySku = command('stock.release-sku', {
  input: z.object({ sku: z.string() }),
  output: z.object({}),
});
export const ship = command('ship.send', {
  input: z.object({ reservationId: z.string() }),
  output: z.object({ trackingId: z.string() }),
  rejections: { Unserviceable: z.object({ country: z.string() }) },
});
export const notify = command('mail.send', {
  input: z.object({ to: z.string() }),
  output: z.object({ messageId: z.string() }),
});
