/**
 * Work through the participant's own database: barrier row, business change and answer commit together.
 *
 * Guards the exactly-once half of I8. A crash before the commit leaves nothing; one after it is mended
 * by the redelivered command, which finds the stored answer.
 */
import { murmur2 } from '../engine/core/shards.ts';
import type { BusMessage } from '../engine/ports.ts';
import { enter, replyTo, type ExecuteDeps, type Ran, type Target } from './barrier.ts';
import { assertMayReject, call, contextOf, timed } from './context.ts';
import { CommandFailure } from './failures.ts';
import type { TransactionalFn } from './handlers.ts';
import type { Answer, Barrier } from './ports.ts';
import { assertInTime, interpret, parseInput, reasonOf, RunScope } from './run.ts';

/** Tries of one transaction that lost a conflict; with the pauses below about half a second in all. */
const MAX_TRIES = 8;
const FIRST_PAUSE_MS = 4;

/** A transaction, run again after serialization failures, deadlocks and lost connections: the barrier makes it safe. */
export async function transact<Tx, T>(
  deps: ExecuteDeps<Tx>,
  commandId: string,
  stop: AbortSignal,
  work: (barrier: Barrier<Tx>) => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await deps.store.transaction(work);
    } catch (error) {
      if (tries >= MAX_TRIES || stop.aborted || !deps.store.isTransient(error)) throw error;
      await deps.clock.sleep(pauseMs(commandId, tries), stop);
    }
  }
}

const encoder = new TextEncoder();

/** Doubles each time; rivals are spread by a hash of their command's id, so that a replay has the same pauses. */
function pauseMs(commandId: string, tries: number): number {
  const share = (murmur2(encoder.encode(`${commandId}#${tries}`)) & 0xff) / 0xff;
  return FIRST_PAUSE_MS * 2 ** (tries - 1) * (0.5 + share);
}

/**
 * As `transact`, under the limits of a transactional handler, its waits for rows that others have included; its errors
 * say why it was aborted.
 */
export async function inTransaction<Tx, T>(
  deps: ExecuteDeps<Tx>,
  commandId: string,
  deadlineAt: number | undefined,
  stop: AbortSignal,
  work: (barrier: Barrier<Tx>, scope: RunScope) => Promise<T>,
): Promise<T> {
  const scope = new RunScope(deps.clock, stop, deadlineAt);
  scope.abortAfter(
    deps.transactionTimeoutMs,
    () =>
      new CommandFailure(
        'HANDLER_TIMEOUT',
        `The transaction was rolled back after ${deps.transactionTimeoutMs} ms: its handler took so long, or another ` +
          `transaction had a row that it needs. Long work belongs in an effect handler.`,
      ),
  );
  try {
    return await transact(deps, commandId, scope.signal, (barrier) =>
      scope.guard(work(barrier, scope)),
    );
  } catch (error) {
    throw reasonOf(error, scope);
  } finally {
    scope.dispose();
  }
}

/** A step by a transactional handler. */
export function runTransactional<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  run: TransactionalFn<any, Tx>,
  stop: AbortSignal,
): Promise<Ran> {
  const { commandId } = target.entry;
  return inTransaction(deps, commandId, target.deadlineAt, stop, (barrier, scope) =>
    runInside(deps, target, run, barrier, scope),
  );
}

/** Enters the barrier and runs the handler in the open transaction; a rejection keeps the row and nothing else. */
export async function runInside<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  run: TransactionalFn<any, Tx>,
  barrier: Barrier<Tx>,
  scope: RunScope,
): Promise<Ran> {
  const { entry } = target;
  const stored = await enter(barrier, entry);
  if (stored !== null) return { verdict: stored, repeated: true };
  const input = inputFor(deps, target);
  await barrier.savepoint();
  const { answer, message } = await runHandler(deps, target, run, input, barrier.tx, scope);
  if (answer.state === 'rejected') await barrier.rollbackToSavepoint();
  await barrier.answer(entry.commandId, answer);
  return { verdict: answer, repeated: false, message };
}

/** @throws CommandFailure when the handler is not to be run: too late, or the input does not fit. */
export function inputFor<Tx>(deps: ExecuteDeps<Tx>, target: Target<Tx>): unknown {
  assertInTime(target.deadlineAt, deps.clock);
  return parseInput(target.handler.contract, target.entry.input);
}

/** The handler's answer, good to be stored: a success that can't be told must not be. With the reply that tells it. */
export async function runHandler<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  run: TransactionalFn<any, Tx>,
  input: unknown,
  tx: Tx,
  scope: RunScope,
  isByItself = true,
): Promise<{ answer: Answer; message: BusMessage }> {
  const { handler } = target;
  const context = { ...contextOf(deps, target, input, scope), tx };
  const result = await timed(deps, target, () => scope.guard(call(() => run(context))), isByItself);
  const verdict = interpret(handler.contract, result);
  if (verdict.state === 'pending') {
    throw new CommandFailure('OUTPUT_INVALID', 'Only an effect handler can answer pending().');
  }
  if (verdict.state === 'rejected') assertMayReject(target, verdict.failure.code);
  const message = deps.encode(replyTo(target.command, verdict), target.command);
  return { answer: verdict, message };
}
