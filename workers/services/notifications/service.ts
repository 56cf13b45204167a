/**
 * Notifications: writes what a customer is told, once per command (I8).
 */
import { sendReceipt } from '../../../definitions/order/contracts.ts';
import { sendTransferReceipt } from '../../../definitions/transfer/contracts.ts';
import { sendItinerary } from '../../../definitions/trip/contracts.ts';
import { transactional, type Handler } from '../../handlers.ts';
import type { ExampleService } from '../service.ts';
import { migrateFrom, type Sql } from '../sql.ts';

interface Message {
  commandId: string;
  template: string;
  recipient: string;
  subjectId: string;
  body: object;
}

async function write(tx: Sql, message: Message): Promise<{ messageId: string }> {
  const messageId = `msg-${message.commandId}`;
  await tx.query(
    `INSERT INTO notifications.messages (message_id, template, recipient, subject_id, body)
     VALUES ($1, $2, $3, $4, $5::jsonb)`,
    [
      messageId,
      message.template,
      message.recipient,
      message.subjectId,
      JSON.stringify(message.body),
    ],
  );
  return { messageId };
}

function notificationHandlers(): Handler<Sql>[] {
  return [
    transactional(sendReceipt, ({ input: { email, orderId, ...body }, tx, commandId }) =>
      write(tx, { commandId, template: 'receipt', recipient: email, subjectId: orderId, body }),
    ),
    transactional(sendItinerary, ({ input: { email, tripId, ...body }, tx, commandId }) =>
      write(tx, { commandId, template: 'itinerary', recipient: email, subjectId: tripId, body }),
    ),
    transactional(sendTransferReceipt, ({ input: { email, transferId, ...body }, tx, commandId }) =>
      write(tx, {
        commandId,
        template: 'transfer-receipt',
        recipient: email,
        subjectId: transferId,
        body,
      }),
    ),
  ];
}

export const notifications: ExampleService = {
  service: 'notifications',
  schema: 'notifications',
  migrate: (sql) => migrateFrom(sql, new URL('./schema.sql', import.meta.url)),
  handlers: notificationHandlers,
};
