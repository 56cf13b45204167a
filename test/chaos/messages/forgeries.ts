/**
 * Replies that nobody gave, made from the commands and replies that go by.
 *
 * Guards that each forgery is one the engine can know: a stranger who has a command's id, its attempt, its
 * service's name and a fitting output is told from the participant only by the broker's access lists.
 */
import { definitions } from '../../../definitions/index.ts';
import type { Json } from '../../../engine/core/json.ts';
import { contractsOf, sampleOf } from '../../definitions/every-node/nodes.ts';
import { partitionOf } from '../checker/evidence.ts';
import type { Dice } from '../../support/dice.ts';
import type { Injection, Seen } from './stranger.ts';

/** Partitions of the inbox in these campaigns. */
export const SHARDS = 8;

/** In every text of a forged answer; no event of a saga may have it. */
export const FORGED = 'forged';

interface Command {
  commandId: string;
  sagaId: string;
  namespace: string;
  command: string;
  op: string;
  attempt: number;
  replyTo: { topic: string; partition: number };
}

const contracts = contractsOf(definitions);

/** `ce_source` of every service but one. */
function anotherService(command: Command, random: Dice): string {
  const own = command.command.split('.')[0];
  const others = [...new Set(contracts.map(({ service }) => service))].filter(
    (service) => service !== own,
  );
  return random.pick(others);
}

type Forgery = (
  command: Command,
  other: Command,
  random: Dice,
) => { body: { [field: string]: Json }; source?: string } | null;

/** An answer that fits the command's contract. */
function fitting({ command, op }: Command): Json {
  const contract = contracts.find(({ name }) => name === command);
  if (contract === undefined || op === 'settle') return {};
  return sampleOf(contract.output, FORGED);
}

const head = ({ commandId, sagaId, namespace, attempt }: Command): { [field: string]: Json } => ({
  commandId,
  sagaId,
  namespace,
  attempt,
});
const failure = { code: 'Forged', message: FORGED };

/** By kind. */
export const FORGERIES: { readonly [kind: string]: Forgery } = {
  'wrong attempt, failed': (command) => ({
    body: {
      ...head(command),
      attempt: command.attempt + 3,
      outcome: 'failed',
      failure,
      retryable: false,
    },
  }),
  'wrong attempt, pending': (command) => ({
    body: { ...head(command), attempt: command.attempt + 3, outcome: 'pending' },
  }),
  "another saga's command": (command, other) =>
    other.sagaId === command.sagaId
      ? null
      : {
          body: {
            ...head(command),
            commandId: other.commandId,
            outcome: 'succeeded',
            output: fitting(other),
          },
        },
  'unknown command': (command) => ({
    body: {
      ...head(command),
      commandId: `${command.sagaId}.999`,
      outcome: 'succeeded',
      output: fitting(command),
    },
  }),
  'unknown saga': (command, _other, random) => {
    const sagaId = String(random.between(1_000, 1_000_000_000));
    return {
      body: {
        ...head(command),
        sagaId,
        commandId: `${sagaId}.1`,
        outcome: 'succeeded',
        output: fitting(command),
      },
    };
  },
  'wrong namespace': (command) => ({
    body: {
      ...head(command),
      namespace: 'elsewhere',
      outcome: 'succeeded',
      output: fitting(command),
    },
  }),
  'wrong service': (command, _other, random) => ({
    body: { ...head(command), outcome: 'succeeded', output: fitting(command) },
    source: `/sagax/workers/${anotherService(command, random)}`,
  }),
  'wrong service, rejected': (command, _other, random) => ({
    body: { ...head(command), outcome: 'rejected', failure },
    source: `/sagax/workers/${anotherService(command, random)}`,
  }),
  'never ran, to a step': (command) =>
    command.op === 'do' ? { body: { ...head(command), outcome: 'neverRan' } } : null,
  'superseded, to a step': (command) =>
    command.op === 'do' ? { body: { ...head(command), outcome: 'superseded' } } : null,
};

/** Output that no contract of the examples takes: as a participant with a defect would answer. */
export const MISFIT = 'wrong output schema';

/** @returns the forged reply to a command that went by, or null when it makes no sense for this one */
export function forge(kind: string, seen: Seen, other: Seen, random: Dice): Injection | null {
  const command = JSON.parse(seen.value ?? 'null') as Command;
  const stranger = JSON.parse(other.value ?? 'null') as Command;
  const forged =
    kind === MISFIT
      ? command.op === 'do'
        ? { body: { ...head(command), outcome: 'succeeded', output: 7 } as const }
        : null
      : (FORGERIES[kind]?.(command, stranger, random) ?? null);
  if (forged === null) return null;
  const service = command.command.split('.')[0] ?? '';
  const claimed = forged.body.sagaId;
  const sagaId = typeof claimed === 'string' ? claimed : command.sagaId;
  const source = 'source' in forged ? forged.source : undefined;
  return {
    kind,
    topic: command.replyTo.topic,
    partition: partitionOf(sagaId, SHARDS),
    key: sagaId,
    headers: {
      'content-type': 'application/json',
      ce_specversion: '1.0',
      ce_type: 'sagax.reply.v1',
      ce_id: `${command.commandId}#${command.attempt}#${FORGED}`,
      ce_source: source ?? `/sagax/workers/${service}`,
      ce_subject: command.sagaId,
    },
    value: JSON.stringify(forged.body),
  };
}
