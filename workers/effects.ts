/**
 * Work elsewhere (a payment API, a mail): run outside any transaction, under a lease on the command.
 *
 * Guards the effectively-once half of I8: one live claim a command, each with a greater fencing token;
 * an outcome is stored only by the claim that still holds. A crash leaves the row `running`: the effect
 * may have happened, and the next claim runs the handler again with the same idempotency key.
 */
import { toJson } from '../engine/core/json.ts';
import {
  fieldsOf,
  headOf,
  replyTo,
  verdictOf,
  type ExecuteDeps,
  type Ran,
  type Target,
  type Verdict,
} from './barrier.ts';
import { assertMayReject, call, contextOf, timed } from './context.ts';
import { CommandFailure } from './failures.ts';
import type { EffectContext, EffectFn, Handler } from './handlers.ts';
import { HandlerAbandoned } from './ports.ts';
import {
  assertInTime,
  interpret,
  makePending,
  parseInput,
  reasonOf,
  RunScope,
  type HandlerResult,
} from './run.ts';
import { transact } from './transactions.ts';

type EffectHandler<Tx> = Extract<Handler<Tx>, { kind: 'effect' }>;

/** Pauses between looks at another's claim: short first, since most end soon. */
const FIRST_LOOK_MS = 25;
const LONGEST_LOOK_MS = 1_000;
/** Tries to store an outcome: without it the effect would be repeated, so a short outage is ridden out. */
const RECORD_TRIES = 6;
const RECORD_PAUSE_MS = 50;

/**
 * Runs an effect handler under a claim, or finds its answer.
 * @param others what to do while another's claim is live: wait for it (bounded), or refuse with STILL_RUNNING
 */
export async function runEffect<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  handler: EffectHandler<Tx>,
  stop: AbortSignal,
  others: 'wait' | 'refuse',
): Promise<Ran> {
  let input: unknown;
  try {
    // Before the claim: what is refused here must leave no row that looks like an effect in flight.
    assertInTime(target.deadlineAt, deps.clock);
    input = parseInput(handler.contract, target.entry.input);
  } catch (error) {
    const stored = await storedVerdict(deps, target, stop);
    if (stored === null) throw error;
    return { verdict: stored, repeated: true };
  }
  const claim = await claimOrWait(deps, target, handler.leaseMs, stop, others);
  if ('verdict' in claim) return { verdict: claim.verdict, repeated: true };
  return runClaimed(deps, target, handler, input, claim, stop);
}

async function storedVerdict<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  stop: AbortSignal,
): Promise<Verdict | null> {
  const { commandId } = target.entry;
  const row = await transact(deps, commandId, stop, (barrier) => barrier.read(commandId));
  return row === null || row.state === 'running' ? null : verdictOf(row);
}

interface Held {
  fencingToken: string;
  /** When the lease ends at the latest, by the local clock: counted from before the claim was sent. */
  endsAt: number;
}

async function claimOrWait<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  leaseMs: number,
  stop: AbortSignal,
  others: 'wait' | 'refuse',
): Promise<Held | { verdict: Verdict }> {
  const { clock } = deps;
  // A holder that died is waited out; one that keeps extending its lease is not waited for for ever.
  const giveUpAt = clock.monotonic() + leaseMs + LONGEST_LOOK_MS;
  for (let pauseMs = FIRST_LOOK_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_LOOK_MS)) {
    const askedAt = clock.monotonic();
    const claim = await deps.store.claim(target.entry, leaseMs);
    if (claim.claimed) return { fencingToken: claim.fencingToken, endsAt: askedAt + leaseMs };
    if (claim.row.state !== 'running') return { verdict: verdictOf(claim.row) };
    if (others === 'refuse' || clock.monotonic() >= giveUpAt) {
      throw new CommandFailure(
        'STILL_RUNNING',
        `Command ${target.entry.commandId} is in flight under another worker's lease.`,
      );
    }
    // One ms more, so that the look behind the lease's end finds it ended.
    const untilFreeMs = Math.max(0, claim.row.leaseRemainingMs) + 1;
    if (!(await clock.sleep(Math.min(pauseMs, untilFreeMs), stop))) {
      throw new CommandFailure('WORKER_STOPPED', 'The worker stopped while it waited for a lease.');
    }
  }
}

/** The handler's run under our claim, from the claim to the stored outcome. */
async function runClaimed<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  handler: EffectHandler<Tx>,
  input: unknown,
  held: Held,
  stop: AbortSignal,
): Promise<Ran> {
  const scope = new RunScope(deps.clock, stop, target.deadlineAt);
  const lease = new LeaseWatch(deps, target, handler.leaseMs, held, scope);
  const context = { ...contextOf(deps, target, input, scope), ...lease.context() };
  try {
    const verdict = await decide(deps, target, handler.run, context, scope);
    return (await record(deps, target, held.fencingToken, verdict))
      ? { verdict, repeated: false }
      : lost(deps, target);
  } catch (error) {
    if (lease.lost) return await givenAway(deps, target, stop);
    // Left behind, the handler may still be at work: a lease that lasts is not ended but runs out.
    const mayEnd = !(error instanceof HandlerAbandoned) || lease.over;
    if (mayEnd && !(await endLease(deps, target, held))) return await givenAway(deps, target, stop);
    throw reasonOf(error, scope);
  } finally {
    scope.dispose();
  }
}

async function decide<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  run: EffectFn<any>,
  context: EffectContext<any>,
  scope: RunScope,
): Promise<HandlerResult> {
  const result = await timed(deps, target, () => scope.guard(call(() => run(context))));
  const verdict = interpret(target.handler.contract, result);
  if (verdict.state === 'rejected') assertMayReject(target, verdict.failure.code);
  deps.encode(replyTo(target.command, verdict), target.command);
  return verdict;
}

async function record<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  fencingToken: string,
  verdict: HandlerResult,
): Promise<boolean> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await deps.store.record(target.entry.commandId, fencingToken, verdict);
    } catch (error) {
      if (tries >= RECORD_TRIES) throw error;
      // Not cut short by a stop: the effect has happened, and this is what keeps it from being repeated.
      await deps.clock.sleep(RECORD_PAUSE_MS * 2 ** (tries - 1));
    }
  }
}

/** @returns false when the claim is another's by now. A database that does not answer changes nothing: it runs out. */
async function endLease<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  held: Held,
): Promise<boolean> {
  try {
    return await deps.store.endLease(target.entry.commandId, held.fencingToken);
  } catch (error) {
    deps.log.warn({ ...fieldsOf(deps, target.command), error }, 'a lease could not be ended early');
    return true;
  }
}

/**
 * The claim is not ours any more. An outcome that is stored is told: it may be our own, stored by a try whose answer was
 * lost, and then nobody else tells it. Else it is the other's to tell.
 */
async function givenAway<Tx>(
  deps: ExecuteDeps<Tx>,
  target: Target<Tx>,
  stop: AbortSignal,
): Promise<Ran> {
  const stored = await storedVerdict(deps, target, stop);
  return stored === null ? lost(deps, target) : { verdict: stored, repeated: true };
}

function lost<Tx>(deps: ExecuteDeps<Tx>, target: Target<Tx>): 'lost' {
  deps.log.warn(
    fieldsOf(deps, target.command),
    'the claim was taken over by another worker, which answers the command',
  );
  return 'lost';
}

/** Our lease as the handler sees it: extended by heartbeats, its signal aborted when it ends. */
class LeaseWatch<Tx> {
  readonly #deps: ExecuteDeps<Tx>;
  readonly #target: Target<Tx>;
  readonly #leaseMs: number;
  readonly #fencingToken: string;
  readonly #scope: RunScope;
  #endsAt: number;
  #toldAt = -Infinity;
  /** Whether the store has said that the claim is another's. */
  lost = false;

  constructor(
    deps: ExecuteDeps<Tx>,
    target: Target<Tx>,
    leaseMs: number,
    held: Held,
    scope: RunScope,
  ) {
    this.#deps = deps;
    this.#target = target;
    this.#leaseMs = leaseMs;
    this.#fencingToken = held.fencingToken;
    this.#endsAt = held.endsAt;
    this.#scope = scope;
    void this.#watch();
  }

  /** Whether it has run out by the local clock, so that another may have the command. */
  get over(): boolean {
    return this.#endsAt <= this.#deps.clock.monotonic();
  }

  context(): Pick<EffectContext<any>, 'idempotencyKey' | 'fencingToken' | 'heartbeat' | 'pending'> {
    return {
      idempotencyKey: this.#target.entry.commandId,
      fencingToken: this.#fencingToken,
      heartbeat: (details) => this.#heartbeat(details),
      pending: makePending,
    };
  }

  async #heartbeat(details: unknown): Promise<void> {
    const { clock, store } = this.#deps;
    this.#scope.signal.throwIfAborted();
    const askedAt = clock.monotonic();
    const { commandId } = this.#target.entry;
    if (!(await store.extend(commandId, this.#fencingToken, this.#leaseMs))) {
      this.lost = true;
      this.#abort();
      this.#scope.signal.throwIfAborted();
    }
    this.#endsAt = askedAt + this.#leaseMs;
    // A third of the lease, so that two lost heartbeats in a row do not look like silence.
    const due = askedAt - this.#toldAt >= this.#leaseMs / 3;
    const { command } = this.#target;
    if (!due || command.op === 'settle') return;
    this.#toldAt = askedAt;
    const told =
      details === undefined ? {} : { details: toJson(details, 'details of heartbeat()') };
    this.#deps.sendHeartbeat({ ...headOf(command), outcome: 'heartbeat', ...told }, command);
  }

  /** Without a heartbeat the handler is told when its lease is over; it may end by itself for as long again. */
  async #watch(): Promise<void> {
    for (;;) {
      const leftMs = this.#endsAt - this.#deps.clock.monotonic();
      if (leftMs <= 0) return this.#abort();
      if (!(await this.#scope.sleep(leftMs))) return;
    }
  }

  #abort(): void {
    const text = `Command ${this.#target.entry.commandId} outlived its lease of ${this.#leaseMs} ms.`;
    this.#scope.abort(new CommandFailure('LEASE_LOST', text), this.#leaseMs);
  }
}
