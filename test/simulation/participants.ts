/**
 * The participants of the simulation: every contract of the definitions, served by handlers that work,
 * reject, throw, hang, answer late and answer elsewhere, as drawn by the world.
 *
 * Guards that what was really done is known: each handler leaves one ledger entry per command in its own
 * database (or in the outside system), through the transaction, so that the checker can count effects.
 */
import type { AnyContract } from '../../engine/core/contracts.ts';
import { murmur2 } from '../../engine/core/shards.ts';
import type { Json } from '../../engine/core/json.ts';
import type { WorldNode } from '../../engine/memory/index.ts';
import * as orderC from '../../definitions/order/contracts.ts';
import * as transferC from '../../definitions/transfer/contracts.ts';
import * as tripC from '../../definitions/trip/contracts.ts';
import { effect, transactional, type EffectContext, type Handler } from '../../workers/handlers.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import { SAGA_CONTRACTS } from '../support/random-saga.ts';
import * as own from './sagas.ts';

/** How participants behave; chances are per run of a handler, 0..1. */
export interface Behaviour {
  rejectChance: number;
  throwChance: number;
  /** Takes seconds to minutes, and may not heed its signal. */
  hangChance: number;
  /** Effects only: "accepted, the answer comes later". */
  pendingChance: number;
  /** Share of commands that fail at every attempt while the chaos lasts, or for ever. */
  cursedShare: number;
  cursedForEver: boolean;
}

export const GOOD_BEHAVIOUR: Behaviour = {
  rejectChance: 0,
  throwChance: 0,
  hangChance: 0,
  pendingChance: 0,
  cursedShare: 0,
  cursedForEver: false,
};

/** One command's effect, as its participant has it. */
export interface LedgerEntry {
  /** How many times it was applied. */
  count: number;
  /** ms since the epoch, of the last application. */
  at: number;
}

type Verdict = 'applied' | 'rejected' | 'accepted';

/**
 * A system elsewhere: one operation per idempotency key, whose first verdict stands; a caller with an
 * older fencing token is turned away. `accepted` becomes `applied` when `complete` is called.
 */
export class Outside {
  readonly ledger = new Map<string, LedgerEntry>();
  readonly #verdicts = new Map<string, Verdict>();
  readonly #tokens = new Map<string, number>();

  /** @throws when the caller's claim has been taken over */
  ask(key: string, token: number, wanted: Verdict, at: number): Verdict {
    const known = this.#tokens.get(key) ?? 0;
    if (token < known) throw new Error(`Token ${token} is older than ${known} for ${key}.`);
    this.#tokens.set(key, token);
    const verdict = this.#verdicts.get(key) ?? wanted;
    this.#verdicts.set(key, verdict);
    if (verdict === 'applied') this.#apply(key, at);
    return verdict;
  }

  complete(key: string, at: number): void {
    this.#verdicts.set(key, 'applied');
    this.#apply(key, at);
  }

  #apply(key: string, at: number): void {
    if (!this.ledger.has(key)) this.ledger.set(key, { count: 1, at });
  }
}

export interface ParticipantWorld {
  behaviour: () => Behaviour;
  outside: Outside;
  /** The effect `commandId` was accepted and will be answered later, not through a worker. */
  completeLater: (commandId: string, sagaId: string, output: Json) => void;
  /** Seeds the choice of cursed commands. */
  curse: number;
}

interface Served {
  contract: AnyContract;
  kind: 'transactional' | 'effect';
  output: (id: string) => object;
  /** A rejection that the contract declares, with its data. */
  rejection?: [code: string, data: object];
}

function served(
  contract: AnyContract,
  kind: Served['kind'],
  output: Served['output'],
  rejection?: [string, object],
): Served {
  return { contract, kind, output, ...(rejection === undefined ? {} : { rejection }) };
}

const nothing = (): object => ({});
const account = { account: 'a' };

export const SERVED: readonly Served[] = [
  served(orderC.reserveStock, 'transactional', (id) => ({ reservationId: `r-${id}` }), [
    'OutOfStock',
    { available: 0 },
  ]),
  served(orderC.releaseStock, 'transactional', nothing),
  served(orderC.chargeCard, 'effect', (id) => ({ paymentId: `p-${id}` }), [
    'CardDeclined',
    { declineCode: 'generic' },
  ]),
  served(orderC.refundCard, 'effect', (id) => ({ refundId: `f-${id}` })),
  served(orderC.shipOrder, 'transactional', (id) => ({ trackingId: `t-${id}` }), [
    'AddressUnserviceable',
    { country: 'AQ' },
  ]),
  served(orderC.sendReceipt, 'effect', (id) => ({ messageId: `m-${id}` })),
  served(tripC.bookFlight, 'transactional', (id) => ({ bookingId: `b-${id}`, seat: '1A' }), [
    'FlightFull',
    { flight: 'F1' },
  ]),
  served(tripC.cancelFlight, 'transactional', nothing),
  served(tripC.bookHotel, 'transactional', (id) => ({ bookingId: `b-${id}` }), [
    'NoVacancy',
    { hotel: 'H1' },
  ]),
  served(tripC.cancelHotel, 'transactional', nothing),
  served(tripC.rentCar, 'effect', (id) => ({ bookingId: `b-${id}` }), [
    'NoCarAvailable',
    { city: 'C', carClass: 'S' },
  ]),
  served(tripC.returnCar, 'transactional', nothing),
  served(tripC.captureTrip, 'effect', (id) => ({ paymentId: `p-${id}` }), [
    'CardDeclined',
    { declineCode: 'generic' },
  ]),
  served(tripC.sendItinerary, 'transactional', (id) => ({ messageId: `m-${id}` })),
  served(transferC.debit, 'transactional', (id) => ({ entryId: `e-${id}` }), [
    'AccountClosed',
    account,
  ]),
  served(transferC.reverseDebit, 'transactional', (id) => ({ entryId: `e-${id}` })),
  served(transferC.credit, 'transactional', (id) => ({ entryId: `e-${id}` }), [
    'AccountClosed',
    account,
  ]),
  served(transferC.sendTransferReceipt, 'transactional', (id) => ({ messageId: `m-${id}` })),
  served(own.take, 'transactional', (id) => ({ ref: id }), ['No', { why: 'drawn' }]),
  served(own.putBack, 'transactional', nothing),
  served(own.look, 'transactional', (id) => ({ ref: id }), ['No', { why: 'drawn' }]),
  served(own.call, 'effect', (id) => ({ ref: id }), ['No', { why: 'drawn' }]),
  served(own.hangUp, 'effect', nothing),
  served(own.decideIt, 'transactional', (id) => ({ ref: id }), ['No', { why: 'drawn' }]),
  served(own.tell, 'transactional', (id) => ({ ref: id })),
  // Those of generated sagas: one of their services works in its own database, the other elsewhere.
  ...SAGA_CONTRACTS.map((contract) =>
    served(
      contract,
      contract.service === 'near' ? 'transactional' : 'effect',
      (id) => ({ ref: id }),
      Object.keys(contract.rejections).length > 0 ? ['No', { why: 'drawn' }] : undefined,
    ),
  ),
];

/** How long an effect's claim lasts: short, so that take-overs happen. */
const CLAIM_MS = 4_000;

/** The handlers of one service, for one worker process. */
export function participantHandlers(
  service: string,
  node: WorldNode,
  world: ParticipantWorld,
): Handler<MemoryTx>[] {
  return SERVED.filter(({ contract }) => contract.service === service).map((one) =>
    one.kind === 'transactional' ? inTransaction(one, node, world) : elsewhere(one, node, world),
  );
}

interface Context {
  commandId: string;
  signal: AbortSignal;
  reject: (code: never, data: never) => { readonly outcome: 'rejected' };
}

function inTransaction(one: Served, node: WorldNode, world: ParticipantWorld): Handler<MemoryTx> {
  return transactional<any, MemoryTx>(one.contract, async (context) => {
    const { commandId, tx } = context;
    await misbehave(node, world, context);
    const known = (await tx.get(`applied/${commandId}`)) as LedgerEntry | undefined;
    const entry: LedgerEntry = { count: (known?.count ?? 0) + 1, at: node.world.now };
    await tx.set(`applied/${commandId}`, entry);
    // Now and then what else a handler may do with its database.
    if (node.world.random.chance(0.3)) {
      await tx.list(`applied/${commandId}`);
      await tx.delete(`draft/${commandId}`);
    }
    // After the change, so that its rollback counts.
    if (rejects(one, node, world)) return reject(one, context);
    if (node.world.random.chance(world.behaviour().throwChance / 2))
      throw new Error('drawn to throw');
    return one.output(commandId);
  });
}

function elsewhere(one: Served, node: WorldNode, world: ParticipantWorld): Handler<MemoryTx> {
  const run = async (context: EffectContext<any>): Promise<any> => {
    const { commandId, sagaId, idempotencyKey } = context;
    const { random } = node.world;
    await misbehave(node, world, context);
    const later = one.rejection !== undefined && random.chance(world.behaviour().pendingChance);
    const wanted = rejects(one, node, world) ? 'rejected' : later ? 'accepted' : 'applied';
    const verdict = await node.io({
      point: 'outside.ask',
      work: () => {
        const token = Number(context.fencingToken);
        return world.outside.ask(idempotencyKey, token, wanted, node.world.now);
      },
      failure: () => new Error('the outside system did not answer'),
    });
    if (verdict === 'rejected') return reject(one, context);
    if (verdict === 'accepted') {
      world.completeLater(commandId, sagaId, one.output(commandId) as Json);
      return context.pending();
    }
    if (random.chance(4 * world.behaviour().hangChance)) await takeLong(node, context);
    if (random.chance(world.behaviour().throwChance / 2)) throw new Error('drawn to throw');
    return one.output(commandId);
  };
  return effect<any>(one.contract, run, { leaseMs: CLAIM_MS });
}

/** Long work that says so, or that goes silent in the middle. */
async function takeLong(node: WorldNode, context: EffectContext<any>): Promise<void> {
  const { random } = node.world;
  for (let beats = random.int(1, 8); beats > 0; beats--) {
    await node.clock.sleep(random.int(500, 2_000), context.signal);
    await context.heartbeat({ beats });
  }
}

function rejects(one: Served, node: WorldNode, world: ParticipantWorld): boolean {
  return one.rejection !== undefined && node.world.random.chance(world.behaviour().rejectChance);
}

function reject(one: Served, context: Context): any {
  const [code, data] = one.rejection ?? ['', {}];
  return context.reject(code as never, data as never);
}

async function misbehave(
  node: WorldNode,
  world: ParticipantWorld,
  context: Context,
): Promise<void> {
  const behaviour = world.behaviour();
  const { random } = node.world;
  const share = (murmur2(encoder.encode(`${world.curse}/${context.commandId}`)) & 0xffff) / 0xffff;
  if (share < behaviour.cursedShare) throw new Error('this command is cursed');
  if (random.chance(behaviour.throwChance)) throw new Error('drawn to throw');
  if (!random.chance(behaviour.hangChance)) return;
  const heeds = random.chance(0.5);
  const slept = await node.clock.sleep(
    random.int(1_000, 40_000),
    heeds ? context.signal : undefined,
  );
  if (!slept) throw new Error('told to stop');
}

const encoder = new TextEncoder();
