/**
 * Handlers: what a service developer writes, one per command contract, fully typed from it.
 *
 * Guards that the four outcomes of a command are types (done, rejected, pending, thrown = try again),
 * and that the two ways of working have two names: `transactional` (exactly once, through `tx`) and
 * `effect` (elsewhere, under a lease, effectively once as far as the other side honours the key).
 */
import type {
  AnyContract,
  InputOf,
  OutputGiven,
  RejectionCode,
  CommandContract,
} from '../engine/core/contracts.ts';
import { SagaxError } from '../engine/core/errors.ts';
import type { z } from 'zod';

/** A business "no", made by `reject(…)`; anything done through `tx` is rolled back. */
export interface Rejected {
  readonly outcome: 'rejected';
  readonly code: string;
  readonly message: string;
  readonly data: unknown;
}
/** "Accepted, the answer comes later", made by `pending()`. */
export interface Pending {
  readonly outcome: 'pending';
}

export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface CommonContext<C extends AnyContract> {
  input: InputOf<C>;
  /** The same over all attempts. */
  commandId: string;
  sagaId: string;
  namespace: string;
  /** 1, 2, 3… */
  attempt: number;
  /** ms since the epoch, when the step has a timeout. */
  deadlineAt: number | undefined;
  /** Aborted on drain, on a lost lease and past the deadline. */
  signal: AbortSignal;
  log: Log;
  /** For a compensation: what the step that it takes back was asked and answered, as this participant stored it. */
  original: { commandId: string; input: unknown; output: unknown } | null;
  reject<K extends RejectionCode<C>>(
    code: K,
    data: z.input<C['rejections'][K]>,
    message?: string,
  ): Rejected;
}

export interface TransactionalContext<C extends AnyContract, Tx> extends CommonContext<C> {
  /** Commits together with the inbox row and the answer. Do all of the work through it. */
  tx: Tx;
}

export interface EffectContext<C extends AnyContract> extends CommonContext<C> {
  /** Send it to the other system; the same for every attempt of this command. */
  idempotencyKey: string;
  /** Grows with each claim; let the other system refuse smaller ones where it can. */
  fencingToken: string;
  /** For work that takes long: extends the lease, tells the engine. Throws when the lease is lost: stop. */
  heartbeat(details?: unknown): Promise<void>;
  /** Answer later: by REST (`POST /v1/commands/{commandId}/complete`) or by a reply on the bus. */
  pending(): Pending;
}

export type TransactionalFn<C extends AnyContract, Tx> = (
  context: TransactionalContext<C, Tx>,
) => Promise<OutputGiven<C> | Rejected>;
export type EffectFn<C extends AnyContract> = (
  context: EffectContext<C>,
) => Promise<OutputGiven<C> | Rejected | Pending>;

export interface EffectOptions {
  /** How long a claim lasts without heartbeat; another worker may take the command after it. Default 30 s. */
  leaseMs?: number;
}

/** `Tx` is what the worker's store gives: a `pg` client for `postgresStore`. */
export type Handler<Tx> =
  | {
      readonly kind: 'transactional';
      readonly contract: AnyContract;
      readonly run: TransactionalFn<any, Tx>;
    }
  | {
      readonly kind: 'effect';
      readonly contract: AnyContract;
      readonly run: EffectFn<any>;
      readonly leaseMs: number;
    };

/** Work through the participant's own database: commits with the inbox row and the answer, exactly once. */
export function transactional<C extends CommandContract<any, any, any>, Tx>(
  contract: C,
  run: TransactionalFn<C, Tx>,
): Handler<Tx> {
  return { kind: 'transactional', contract, run };
}

/**
 * Work elsewhere: under a lease on the command, with a fencing token and a stable idempotency key.
 * It sees no `tx`, so it goes with any store (`unknown` is what every `Tx` can be given for).
 */
export function effect<C extends CommandContract<any, any, any>>(
  contract: C,
  run: EffectFn<C>,
  options: EffectOptions = {},
): Handler<unknown> {
  return { kind: 'effect', contract, run, leaseMs: options.leaseMs ?? 30_000 };
}

/**
 * By the name of their command.
 * @throws SagaxError CONFIG_INVALID when one is not of this service, or a command has two
 */
export function handlersByName<Tx>(
  service: string,
  handlers: readonly Handler<Tx>[],
): ReadonlyMap<string, Handler<Tx>> {
  const byName = new Map<string, Handler<Tx>>();
  for (const handler of handlers) {
    const { name } = handler.contract;
    if (handler.contract.service !== service) {
      throw new SagaxError(
        'CONFIG_INVALID',
        `The handler of "${name}" is given to a worker of service "${service}", which gets no such ` +
          `commands; give it to a worker of "${handler.contract.service}".`,
      );
    }
    if (byName.has(name)) {
      throw new SagaxError('CONFIG_INVALID', `"${name}" has two handlers; keep one.`);
    }
    byName.set(name, handler);
  }
  return byName;
}
