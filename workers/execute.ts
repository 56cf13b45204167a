/**
 * One command through the barrier: the whole table of states × ops, with no IO but the store's.
 *
 * Guards I8: a step's effect is applied once under any crash, duplicate, reorder or zombie; a
 * compensation of what never ran does nothing and keeps it from running; a repeat gets the first
 * answer. Nothing it meets is thrown: whatever happens becomes a reply, or is left to redelivery.
 */
import type { CommandBody, ReplyBody } from '../engine/core/wire.ts';
import type { BusMessage } from '../engine/ports.ts';
import type { Batches } from './batches.ts';
import {
  enter,
  failed,
  fieldsOf,
  mustRead,
  replyTo,
  verdictOf,
  type ExecuteDeps,
  type Ran,
  type Target,
} from './barrier.ts';
import { runEffect } from './effects.ts';
import { CommandFailure, failureOf } from './failures.ts';
import type { Handler } from './handlers.ts';
import type { Answer, Barrier, BarrierEntry, BarrierRow, Original } from './ports.ts';
import { inTransaction, runInside, runTransactional } from './transactions.ts';

export type Execution =
  /** `published`: the message has gone out with the commit that stored the answer. */
  | {
      kind: 'answered';
      reply: ReplyBody;
      message: BusMessage;
      repeated: boolean;
      published: boolean;
    }
  | { kind: 'lost' }
  /** The worker is stopping: no answer; the command is delivered again, to whoever is there. */
  | { kind: 'unfinished' };

/** How a command is run: everything of `ExecuteDeps`, and the batches where the store has them. */
export interface ExecuteHow<Tx> extends ExecuteDeps<Tx> {
  readonly batches: Batches<Tx> | null;
}

/**
 * Runs one command once it is its turn, with others or by itself. Never throws. `stop` aborts the handler and
 * leaves the command unanswered.
 * @param wanted asked when it is its turn; a command that no longer is stays unfinished
 */
export async function execute<Tx>(
  deps: ExecuteHow<Tx>,
  command: CommandBody,
  stop: AbortSignal,
  wanted: () => boolean = () => true,
): Promise<Execution> {
  try {
    const together = await inBatch(deps, command, wanted);
    if (together === 'unwanted' || stop.aborted) return { kind: 'unfinished' };
    const ran =
      together === 'alone'
        ? await deps.slots.run(async () => (wanted() ? dispatch(deps, command, stop) : 'unwanted'))
        : together;
    if (ran === 'unwanted') return { kind: 'unfinished' };
    if (ran === 'lost') return { kind: 'lost' };
    const reply = replyTo(command, ran.verdict);
    const { repeated, message = deps.encode(reply, command), published = false } = ran;
    return { kind: 'answered', reply, message, repeated, published };
  } catch (error) {
    if (stop.aborted) return { kind: 'unfinished' };
    const { failure, retryable } = failureOf(error);
    deps.log.warn({ ...fieldsOf(deps, command), code: failure.code, error }, 'command failed');
    const reply = failed(command, failure, retryable);
    const message = deps.encode(reply, command);
    return { kind: 'answered', reply, message, repeated: false, published: false };
  }
}

/** Transactional dos and compensations share a transaction with others, where that can be. */
async function inBatch<Tx>(
  deps: ExecuteHow<Tx>,
  command: CommandBody,
  wanted: () => boolean,
): Promise<Ran | 'alone' | 'unwanted'> {
  const { batches } = deps;
  const handler = deps.handlers.get(command.command);
  if (batches === null || handler?.kind !== 'transactional') return 'alone';
  if (command.op === 'settle') return 'alone';
  const { op } = command;
  const target: Target<Tx> = {
    entry: entryOf(command, op),
    handler,
    command,
    original: null,
    deadlineAt: op === 'do' ? command.deadlineAt : undefined,
  };
  const step = op === 'do' ? null : supersededEntry(command, ofId(command));
  return batches.run({ target, run: handler.run, step, wanted });
}

function dispatch<Tx>(
  deps: ExecuteDeps<Tx>,
  command: CommandBody,
  stop: AbortSignal,
): Promise<Ran> {
  switch (command.op) {
    case 'do':
      return runStep(deps, command, stop);
    case 'compensate':
      return compensate(deps, command, stop);
    case 'settle':
      return settle(deps, command, stop);
  }
}

async function runStep<Tx>(
  deps: ExecuteDeps<Tx>,
  command: CommandBody,
  stop: AbortSignal,
): Promise<Ran> {
  const target: Target<Tx> = {
    entry: entryOf(command, 'do'),
    handler: handlerOf(deps, command.command),
    command,
    original: null,
    deadlineAt: command.deadlineAt,
  };
  return target.handler.kind === 'transactional'
    ? runTransactional(deps, target, target.handler.run, stop)
    : runEffect(deps, target, target.handler, stop, 'wait');
}

/** Takes back what the step `of` did; when it did nothing, keeps it from ever running. */
async function compensate<Tx>(
  deps: ExecuteDeps<Tx>,
  command: CommandBody,
  stop: AbortSignal,
): Promise<Ran> {
  const of = ofId(command);
  const handler = handlerOf(deps, command.command);
  const entry = entryOf(command, 'compensate');
  const prepare = async (barrier: Barrier<Tx>): Promise<Ran | Original | null> => {
    const original = await closeStep(barrier, command, of);
    if (original !== null) return original;
    // Null compensation: answered, and stored like any other answer, without the handler.
    const stored = await enter(barrier, entry);
    if (stored !== null) return { verdict: stored, repeated: true };
    const answer: Answer = { state: 'done', output: null };
    await barrier.answer(entry.commandId, answer);
    return { verdict: answer, repeated: false };
  };
  if (handler.kind === 'effect') {
    const prepared = await inTransaction(deps, command.commandId, undefined, stop, prepare);
    if (isRan(prepared)) return prepared;
    const target = { entry, handler, command, original: prepared, deadlineAt: undefined };
    return runEffect(deps, target, handler, stop, 'wait');
  }
  return inTransaction(deps, command.commandId, undefined, stop, async (barrier, scope) => {
    const prepared = await prepare(barrier);
    if (isRan(prepared)) return prepared;
    const target = { entry, handler, command, original: prepared, deadlineAt: undefined };
    return runInside(deps, target, handler.run, barrier, scope);
  });
}

function isRan(value: Ran | Original | null): value is Ran {
  return value === 'lost' || (value !== null && 'verdict' in value);
}

/**
 * Bars the step `of` from running, by taking its row (waits for a transaction that has it).
 * @returns what it had done, or null when it had done nothing and never will
 */
async function closeStep<Tx>(
  barrier: Barrier<Tx>,
  command: CommandBody,
  of: string,
): Promise<Original | null> {
  if (await barrier.insert(supersededEntry(command, of), 'superseded')) return null;
  const row = await mustRead(barrier, of);
  switch (row.state) {
    case 'done':
      return { commandId: of, input: row.input, output: row.output };
    case 'rejected':
    case 'superseded':
      return null;
    case 'pending':
      // The engine takes back only what it has logged as done: the step was completed past us, by REST or by
      // a reply, and the row can't know the output. Refusing would leave such a step never compensated.
      return { commandId: of, input: row.input, output: null };
    case 'running':
      throw new CommandFailure('STILL_RUNNING', `Step ${of} is in flight, or its outcome unknown.`);
  }
}

/** Says for good what became of the step `of`; one that never ran never will. */
async function settle<Tx>(
  deps: ExecuteDeps<Tx>,
  command: CommandBody,
  stop: AbortSignal,
): Promise<Ran> {
  const of = ofId(command);
  const row = await inTransaction(deps, command.commandId, undefined, stop, async (barrier) =>
    (await barrier.insert(supersededEntry(command, of), 'superseded'))
      ? null
      : mustRead(barrier, of),
  );
  if (row === null) return { verdict: { state: 'neverRan' }, repeated: false };
  const ran =
    row.state === 'running'
      ? await learnOutcome(deps, command, row, stop)
      : { verdict: verdictOf(row), repeated: true };
  if (ran === 'lost') throw new CommandFailure('STILL_RUNNING', `Step ${of} is in flight again.`);
  if (ran.verdict.state === 'pending') {
    throw new CommandFailure('STILL_PENDING', `Step ${of} is pending; complete it first.`);
  }
  if (ran.verdict.state !== 'superseded') return ran;
  return { verdict: { state: 'neverRan' }, repeated: ran.repeated };
}

/**
 * An effect whose worker is gone may have happened: its handler runs again under a new claim with the
 * same idempotency key, since only the other system knows.
 */
function learnOutcome<Tx>(
  deps: ExecuteDeps<Tx>,
  command: CommandBody,
  row: BarrierRow & { state: 'running' },
  stop: AbortSignal,
): Promise<Ran> {
  if (row.leaseRemainingMs > 0) {
    throw new CommandFailure('STILL_RUNNING', `Step ${row.commandId} is in flight.`);
  }
  const handler = handlerOf(deps, command.command);
  const entry: BarrierEntry = {
    ...entryOf(command, 'do'),
    commandId: row.commandId,
    of: null,
    input: row.input,
  };
  const target = { entry, handler, command, original: null, deadlineAt: undefined };
  return handler.kind === 'effect'
    ? runEffect(deps, target, handler, stop, 'refuse')
    : runTransactional(deps, target, handler.run, stop);
}

function handlerOf<Tx>(deps: ExecuteDeps<Tx>, name: string): Handler<Tx> {
  const handler = deps.handlers.get(name);
  if (handler !== undefined) return handler;
  throw new CommandFailure(
    'NO_HANDLER',
    `Service ${deps.service} has no handler for "${name}" in this worker; deploy one that has.`,
  );
}

function ofId(command: CommandBody): string {
  if (command.of !== undefined && command.of !== command.commandId) return command.of;
  throw new CommandFailure(
    'MESSAGE_INVALID',
    `A ${command.op} needs "of": the command id of the step that it is about.`,
    { retryable: false },
  );
}

function entryOf(command: CommandBody, op: 'do' | 'compensate'): BarrierEntry {
  return {
    commandId: command.commandId,
    sagaId: command.sagaId,
    namespace: command.namespace,
    command: command.command,
    op,
    of: op === 'compensate' ? (command.of ?? null) : null,
    input: command.input,
    attempt: command.attempt,
  };
}

/** The row that keeps a step from running. Its input was never seen here. */
function supersededEntry(command: CommandBody, of: string): BarrierEntry {
  return { ...entryOf(command, 'do'), commandId: of, input: null };
}
