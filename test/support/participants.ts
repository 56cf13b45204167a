/** Participants for tests of the runtime: answer every command at once, by a function from command to reply. */
import { partitionOf } from '../../engine/core/shards.ts';
import {
  CE_TYPES,
  decodeCommand,
  encodeMessage,
  type CommandBody,
} from '../../engine/core/wire.ts';
import type { Bus, BusMessage, Subscription } from '../../engine/ports.ts';

/** What a participant says to a command; null says nothing. Fields of the reply beside those that name the command. */
export type Answer = { outcome: string; [field: string]: unknown } | null;

export function replyMessage(command: CommandBody, answer: NonNullable<Answer>): BusMessage {
  const { commandId, sagaId, namespace, attempt, replyTo } = command;
  const message = encodeMessage(
    {
      type: CE_TYPES.reply,
      id: `${commandId}#${attempt}#${answer.outcome}`,
      source: '/test',
      at: 0,
      sagaId,
    },
    { commandId, sagaId, namespace, attempt, ...answer },
  );
  return { ...replyTo, ...message };
}

/** Subscribes to the services' command topics and answers. @returns the subscription, and the commands seen so far */
export async function participants(
  bus: Bus,
  topicPrefix: string,
  services: readonly string[],
  answer: (command: CommandBody) => Answer,
): Promise<{ subscription: Subscription; commands: CommandBody[] }> {
  const commands: CommandBody[] = [];
  const subscription = bus.subscribe({
    group: `${topicPrefix}.test-participants`,
    topics: services.map((service) => `${topicPrefix}.commands.${service}`),
    onBatch: async (batch) => {
      for (const message of batch.messages) {
        const command = decodeCommand(message);
        commands.push(command);
        const said = answer(command);
        if (said !== null) await bus.publish([replyMessage(command, said)]);
      }
      batch.commit((batch.messages.at(-1)?.offset ?? 0n) + 1n);
    },
  });
  await subscription.ready();
  return { subscription, commands };
}

/** Puts an input into the inbox as the API does. */
export async function send(
  bus: Bus,
  topicPrefix: string,
  shards: number,
  type: 'start' | 'signal' | 'cancel' | 'operator' | 'reply',
  body: { sagaId: string; [field: string]: unknown },
): Promise<void> {
  const message = encodeMessage(
    {
      type: CE_TYPES[type],
      id: `${type}-${body.sagaId}`,
      source: '/test',
      at: 0,
      sagaId: body.sagaId,
    },
    { namespace: 'default', ...body },
  );
  await bus.publish([
    { topic: `${topicPrefix}.inbox`, partition: partitionOf(body.sagaId, shards), ...message },
  ]);
}
