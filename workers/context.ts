/** What every handler gets, and the measuring of its run. */
import { fieldsOf, type ExecuteDeps, type Target } from './barrier.ts';
import { CommandFailure } from './failures.ts';
import type { CommonContext, Log } from './handlers.ts';
import { makeRejected, type RunScope } from './run.ts';

export function contextOf<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  input: unknown,
  scope: RunScope,
): CommonContext<any> {
  const { entry, command } = target;
  return {
    input,
    commandId: entry.commandId,
    sagaId: entry.sagaId,
    namespace: entry.namespace,
    attempt: command.attempt,
    deadlineAt: target.deadlineAt,
    signal: scope.signal,
    log: withFields(deps.log, fieldsOf(deps, command)),
    original: target.original,
    reject: (code, data, message) => makeRejected(code, data, message),
  };
}

function withFields(log: Log, fixed: object): Log {
  return {
    debug: (fields, message) => log.debug({ ...fixed, ...fields }, message),
    info: (fields, message) => log.info({ ...fixed, ...fields }, message),
    warn: (fields, message) => log.warn({ ...fixed, ...fields }, message),
    error: (fields, message) => log.error({ ...fixed, ...fields }, message),
  };
}

/**
 * Runs a handler and reports how long it took, whatever comes of it.
 * @param note tells the pace of its command; while others run beside it, its time is not its own
 */
export async function timed<Tx, T>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  run: () => Promise<T>,
  note = true,
): Promise<T> {
  const startedAt = deps.clock.monotonic();
  try {
    return await run();
  } finally {
    const tookMs = deps.clock.monotonic() - startedAt;
    if (note) deps.pace.note(target.entry.command, tookMs);
    deps.metrics.handlerMs(tookMs, {
      service: deps.service,
      command: target.entry.command,
      op: target.command.op,
    });
  }
}

/** A handler that throws before it awaits anything rejects like any other. */
export async function call<T>(run: () => Promise<T>): Promise<T> {
  return run();
}

/** Compensations are retriable by definition: they have no business "no". */
export function assertMayReject<Tx>(target: Target<Tx>, code: string): void {
  if (target.entry.op !== 'compensate') return;
  throw new CommandFailure(
    'COMPENSATION_REJECTED',
    `${target.entry.command} is a compensation and was rejected with ${code}; compensations can't be rejected.`,
  );
}
