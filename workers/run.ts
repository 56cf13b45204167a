/**
 * One run of a handler: its abort signal, its limits, and what its result means.
 *
 * Guards that no handler can hang a worker: it is told to stop by its signal, and is abandoned when it
 * does not. And that nothing leaves that the contract doesn't know: outputs and rejections are checked.
 */
import type { AnyContract } from '../engine/core/contracts.ts';
import type { Failure } from '../engine/core/events.ts';
import { toJson, type Json } from '../engine/core/json.ts';
import type { Clock } from '../engine/ports.ts';
import { z } from 'zod';
import { CommandFailure, cutText } from './failures.ts';
import type { Pending, Rejected } from './handlers.ts';
import { HandlerAbandoned } from './ports.ts';

/** How long a handler has to end after its signal was aborted, before it is left behind. */
export const ABORT_GRACE_MS = 1_000;

/** The abort signal of one run. Must be disposed: it holds timers of the clock, and the worker's signal holds it. */
export class RunScope {
  readonly #clock: Clock;
  readonly #controller = new AbortController();
  readonly #timers = new AbortController();
  readonly #abandoned: Promise<never>;
  #abandon: (error: Error) => void = () => undefined;
  readonly #unlisten: () => void;

  /**
   * @param stop aborted when the worker wants its handlers to end
   * @param deadlineAt ms since the epoch: abort then
   */
  constructor(clock: Clock, stop: AbortSignal, deadlineAt?: number) {
    this.#clock = clock;
    this.#abandoned = new Promise<never>((_, reject) => {
      this.#abandon = reject;
    });
    this.#abandoned.catch(() => undefined);
    const stopped = (): void =>
      this.abort(new CommandFailure('WORKER_STOPPED', 'The worker was told to stop.'));
    if (stop.aborted) stopped();
    else stop.addEventListener('abort', stopped, { once: true });
    // Not by a `signal` of the listener: Node holds what would take it off weakly, and after a collection it stays for ever.
    this.#unlisten = () => stop.removeEventListener('abort', stopped);
    if (deadlineAt !== undefined) {
      this.abortAfter(
        Math.max(0, deadlineAt - clock.now()),
        () =>
          new CommandFailure('STEP_TIMED_OUT', "The step's deadline passed while its handler ran."),
      );
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Tells the handler to end; `guard` rejects with HandlerAbandoned when it has not after `graceMs`. */
  abort(reason: CommandFailure, graceMs: number = ABORT_GRACE_MS): void {
    if (this.signal.aborted) return;
    this.#controller.abort(reason);
    void this.sleep(graceMs).then((slept) => {
      if (slept) this.#abandon(new HandlerAbandoned(reason.message, { cause: reason }));
    });
  }

  abortAfter(ms: number, reason: () => CommandFailure): void {
    void this.sleep(ms).then((slept) => {
      if (slept) this.abort(reason());
    });
  }

  /** Sleeps as the clock does; false when the run has ended. */
  sleep(ms: number): Promise<boolean> {
    return this.#clock.sleep(ms, this.#timers.signal);
  }

  /** The work's own end, or HandlerAbandoned when it outlives its abort. */
  guard<T>(work: Promise<T>): Promise<T> {
    // Left behind, it may reject later with nobody listening; that must not end the process.
    work.catch(() => undefined);
    return Promise.race([work, this.#abandoned]);
  }

  dispose(): void {
    this.#unlisten();
    // With a reason of our own: the default one is an exception, and costs a stack for each command.
    this.#timers.abort('over');
  }
}

/** What was thrown, in the words of why: the abort's reason when the run was aborted. */
export function reasonOf(error: unknown, scope: RunScope): unknown {
  if (error instanceof HandlerAbandoned) return error.cause ?? error;
  return scope.signal.aborted ? scope.signal.reason : error;
}

/** Results are told from outputs by identity, so an output may well have a field named `outcome`. */
const rejections = new WeakSet<object>();
const pendings = new WeakSet<object>();

export function makeRejected(code: string, data: unknown, message = ''): Rejected {
  const rejected: Rejected = { outcome: 'rejected', code, message, data };
  rejections.add(rejected);
  return rejected;
}

export function makePending(): Pending {
  const pending: Pending = { outcome: 'pending' };
  pendings.add(pending);
  return pending;
}

export type HandlerResult =
  { state: 'done'; output: Json } | { state: 'rejected'; failure: Failure } | { state: 'pending' };

/** @throws CommandFailure OUTPUT_INVALID when the result does not fit the contract. */
export function interpret(contract: AnyContract, result: unknown): HandlerResult {
  if (typeof result === 'object' && result !== null) {
    if (pendings.has(result)) return { state: 'pending' };
    if (rejections.has(result)) return interpretRejection(contract, result as Rejected);
  }
  return { state: 'done', output: fit(contract.output, result, `The output of ${contract.name}`) };
}

function interpretRejection(contract: AnyContract, rejected: Rejected): HandlerResult {
  const schema = (contract.rejections as { [code: string]: z.ZodType })[rejected.code];
  if (!Object.hasOwn(contract.rejections, rejected.code) || schema === undefined) {
    throw new CommandFailure(
      'OUTPUT_INVALID',
      `${contract.name} was rejected with the code "${rejected.code}", which its contract does not ` +
        `declare. Add it to the contract's rejections.`,
    );
  }
  const where = `The data of the rejection ${rejected.code} of ${contract.name}`;
  const data = fit(schema, rejected.data, where);
  return {
    state: 'rejected',
    failure: { code: rejected.code, message: cutText(rejected.message), data },
  };
}

/** The value as it was given: the other side parses it by the same schema, so a schema may transform. */
function fit(schema: z.ZodType, value: unknown, where: string): Json {
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    throw new CommandFailure(
      'OUTPUT_INVALID',
      `${where} does not fit its schema: ${z.prettifyError(parsed.error)}`,
    );
  }
  try {
    return toJson(value, where);
  } catch (error) {
    throw new CommandFailure('OUTPUT_INVALID', (error as Error).message, { cause: error });
  }
}

/** The input as the handler sees it. @throws CommandFailure INPUT_INVALID, not retryable. */
export function parseInput(contract: AnyContract, input: Json): unknown {
  const parsed = (contract.input as z.ZodType).safeParse(input);
  if (parsed.success) return parsed.data;
  throw new CommandFailure(
    'INPUT_INVALID',
    `The input of ${contract.name} does not fit its schema: ${z.prettifyError(parsed.error)}`,
    { retryable: false },
  );
}

/** Past its deadline a step is not begun: the engine has given it up, or is about to. */
export function assertInTime(deadlineAt: number | undefined, clock: Clock): void {
  if (deadlineAt === undefined || clock.now() < deadlineAt) return;
  throw new CommandFailure('STEP_TIMED_OUT', "The step's deadline had passed before it was begun.");
}
