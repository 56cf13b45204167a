/**
 * Payments: charges and refunds cards through a gateway that is elsewhere, so by `effect` handlers.
 *
 * Guards that a card is charged once per command: the command's idempotency key goes with every
 * request, so after a crash or a lost answer the same question gets the same answer.
 */
import { chargeCard, refundCard } from '../../../definitions/order/contracts.ts';
import { captureTrip } from '../../../definitions/trip/contracts.ts';
import { effect, type EffectContext, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { migrateFrom, type Sql } from '../sql.ts';
import { sqlGatewayStorage } from './gateway-storage.ts';
import { createGateway, type PaymentGateway } from './gateway.ts';

export function paymentHandlers(gateway: PaymentGateway): Handler<Sql>[] {
  return [
    effect(chargeCard, (context) => charge(gateway, context)),
    effect(captureTrip, (context) => charge(gateway, context)),
    effect(refundCard, async (context) => {
      const refund = await gateway.refund(context, { chargeId: context.input.paymentId });
      return { refundId: refund.operationId };
    }),
  ];
}

/** What both commands that take money have in common. */
type Charging = Omit<EffectContext<typeof chargeCard>, 'input'> & {
  input: { card: string; amountCents: number };
};

async function charge(gateway: PaymentGateway, context: Charging) {
  const { card, amountCents } = context.input;
  const operation = await gateway.charge(context, { card, amountCents });
  switch (operation.status) {
    case 'succeeded':
      return { paymentId: operation.operationId };
    case 'declined':
      return context.reject(
        'CardDeclined',
        { declineCode: operation.declineCode ?? 'unknown' },
        'The gateway declined the card',
      );
    case 'awaitingHolder':
      // Whoever hears of the holder's answer completes the command; see docs/AUTHORING.md.
      return context.pending();
  }
}

export const payments: ExampleService = {
  service: 'payments',
  schema: 'payments',
  migrate: async (sql) => {
    await migrateFrom(sql, new URL('./schema.sql', import.meta.url));
    await migrateFrom(sql, new URL('./gateway.sql', import.meta.url));
  },
  handlers: ({ outside }) => paymentHandlers(createGateway(sqlGatewayStorage(outside))),
};
