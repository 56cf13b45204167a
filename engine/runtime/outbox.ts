/**
 * Logged events as bus messages: commands for participants and domain events for whoever listens.
 *
 * Guards I3 and I10: a message is built from its event alone, so a republication is the same message.
 */
import type { LoggedEvent } from '../core/events.ts';
import { partitionOf } from '../core/shards.ts';
import { CE_TYPES, encodeMessage, serviceOf, topicNames, type CommandBody } from '../core/wire.ts';
import type { BusMessage } from '../ports.ts';

export interface Topology {
  /** Prefix of every topic, e.g. `sagax`. */
  topicPrefix: string;
  /** Partitions of each command topic and of the topic of domain events. */
  commandPartitions: number;
}

type CommandParts = Pick<CommandBody, 'commandId' | 'command' | 'op' | 'attempt' | 'input'> & {
  of?: string | undefined;
  deadlineAt?: number | undefined;
  traceparent?: string | undefined;
};

/** @returns the message of an outbox event, or null for any other event. */
export function messageOf(logged: LoggedEvent, topology: Topology): BusMessage | null {
  const { event } = logged;
  switch (event.type) {
    case 'StepRequested':
      return commandMessage(logged, topology, { ...event, op: 'do', attempt: 1 });
    case 'CommandRetried':
      return commandMessage(logged, topology, event);
    case 'SettlementRequested':
      return commandMessage(logged, topology, { ...event, op: 'settle', attempt: 1, input: null });
    case 'CompensationRequested':
      return commandMessage(logged, topology, { ...event, op: 'compensate', attempt: 1 });
    case 'DomainEventEmitted':
      return domainEventMessage(logged, topology, event.event);
    default:
      return null;
  }
}

function commandMessage(logged: LoggedEvent, topology: Topology, parts: CommandParts): BusMessage {
  const { sagaId, namespace, shard, at } = logged;
  const topics = topicNames(topology.topicPrefix);
  const body: CommandBody = {
    commandId: parts.commandId,
    sagaId,
    namespace,
    command: parts.command,
    op: parts.op,
    ...(parts.of === undefined ? {} : { of: parts.of }),
    attempt: parts.attempt,
    input: parts.input,
    ...(parts.deadlineAt === undefined ? {} : { deadlineAt: parts.deadlineAt }),
    replyTo: { topic: topics.inbox, partition: shard },
  };
  const message = encodeMessage(
    {
      type: CE_TYPES.command,
      id: `${parts.commandId}#${parts.attempt}`,
      source: '/sagax/engine',
      at,
      sagaId,
      traceparent: parts.traceparent,
    },
    body,
  );
  return {
    topic: topics.commands(serviceOf(parts.command)),
    partition: partitionOf(sagaId, topology.commandPartitions),
    ...message,
  };
}

function domainEventMessage(
  logged: LoggedEvent,
  topology: Topology,
  event: { type: string },
): BusMessage {
  const { sagaId, namespace, streamVersion, at } = logged;
  const message = encodeMessage(
    {
      type: CE_TYPES.domainEvent,
      id: `${sagaId}/${streamVersion}`,
      source: '/sagax/engine',
      at,
      sagaId,
    },
    { sagaId, namespace, streamVersion, event },
  );
  return {
    topic: topicNames(topology.topicPrefix).domainEvents,
    partition: partitionOf(sagaId, topology.commandPartitions),
    ...message,
  };
}
