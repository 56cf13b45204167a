/** Contracts of the service under test, and commands for them. */
import { z } from 'zod';
import { command, type AnyContract } from '../../../engine/core/contracts.ts';
import { CE_TYPES, encodeMessage, type CommandBody } from '../../../engine/core/wire.ts';
import { partitionOf } from '../../../engine/core/shards.ts';
import type { BusMessage } from '../../../engine/ports.ts';

const amount = z.object({ item: z.string(), count: z.int().positive() });

export const reserve = command('shop.reserve', {
  input: amount,
  output: z.object({ reservation: z.string() }),
  rejections: { SoldOut: z.object({ left: z.int() }) },
});
export const release = command('shop.release', { input: amount, output: z.object({}) });
export const charge = command('shop.charge', {
  input: amount,
  output: z.object({ charge: z.string() }),
  rejections: { Declined: z.object({ why: z.string() }) },
});
export const refund = command('shop.refund', { input: amount, output: z.object({}) });

export const PREFIX = 'test';
export const COMMANDS = 'test.commands.shop';
export const INBOX = 'test.inbox';
export const PARTITIONS = 4;
export const SAGA = '7000000000000000001';
export const BOOK = { item: 'book', count: 1 };

/** A command for the contract; `n` numbers the steps of the saga. */
export function commandFor(
  contract: AnyContract,
  options: Partial<CommandBody> & { n?: number } = {},
): CommandBody {
  const { n = 1, ...rest } = options;
  const sagaId = rest.sagaId ?? SAGA;
  const suffix = { do: '', compensate: '.c', settle: '.s' }[rest.op ?? 'do'];
  return {
    commandId: `${sagaId}.${n}${suffix}`,
    sagaId,
    namespace: 'default',
    command: contract.name,
    op: 'do',
    attempt: 1,
    input: BOOK,
    replyTo: { topic: INBOX, partition: 0 },
    ...(rest.op === undefined || rest.op === 'do' ? {} : { of: `${sagaId}.${n}` }),
    ...rest,
  };
}

export function messageFor(body: CommandBody, traceparent?: string): BusMessage {
  const envelope = {
    type: CE_TYPES.command,
    id: `${body.commandId}#${body.attempt}`,
    source: '/test',
    at: 0,
    sagaId: body.sagaId,
    traceparent,
  };
  return {
    topic: COMMANDS,
    partition: partitionOf(body.sagaId, PARTITIONS),
    ...encodeMessage(envelope, body),
  };
}
