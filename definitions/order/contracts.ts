/**
 * What the order saga and its participants agree on.
 *
 * Guards that both sides of a command have one source for its types. Amounts are whole cents of one
 * currency; ids are strings.
 */
import { z } from 'zod';
import { command } from '../../engine/core/index.ts';

const cents = z.int().positive();
const none = z.strictObject({});

export const addressSchema = z.object({
  name: z.string().min(1).max(200),
  street: z.string().min(1).max(200),
  city: z.string().min(1).max(200),
  postalCode: z.string().min(1).max(20),
  /** ISO 3166-1 alpha-2. */
  country: z.string().regex(/^[A-Z]{2}$/, 'a country code such as "DE"'),
});
export type Address = z.output<typeof addressSchema>;

// ---------------------------------------------------------------- inventory

export const reserveStock = command('inventory.reserve-stock', {
  input: z.object({ orderId: z.string(), sku: z.string(), quantity: z.int().positive() }),
  output: z.object({ reservationId: z.string() }),
  rejections: { OutOfStock: z.object({ available: z.int().nonnegative() }) },
});

export const releaseStock = command('inventory.release-stock', {
  input: z.object({ reservationId: z.string() }),
  output: none,
});

// ---------------------------------------------------------------- payments

export const chargeCard = command('payments.charge-card', {
  /** `card` is what the gateway knows the card by. A real one gives out tokens; ours takes test numbers. */
  input: z.object({ orderId: z.string(), card: z.string(), amountCents: cents }),
  output: z.object({ paymentId: z.string() }),
  rejections: { CardDeclined: z.object({ declineCode: z.string() }) },
});

export const refundCard = command('payments.refund-card', {
  input: z.object({ paymentId: z.string() }),
  output: z.object({ refundId: z.string() }),
});

// ---------------------------------------------------------------- shipping

export const shipOrder = command('shipping.ship-order', {
  input: z.object({ orderId: z.string(), reservationId: z.string(), address: addressSchema }),
  output: z.object({ trackingId: z.string() }),
  rejections: { AddressUnserviceable: z.object({ country: z.string() }) },
});

// ---------------------------------------------------------------- notifications

export const sendReceipt = command('notifications.send-receipt', {
  input: z.object({
    orderId: z.string(),
    email: z.email(),
    amountCents: cents,
    paymentId: z.string(),
    trackingId: z.string(),
  }),
  output: z.object({ messageId: z.string() }),
});
