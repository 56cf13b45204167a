/**
 * A payment gateway, simulated: a system elsewhere, which no transaction of ours reaches.
 *
 * Guards what a good gateway guards: one operation per idempotency key, whatever is lost on the way;
 * the same answer to every repeat; a caller with an older fencing token is turned away. How it fails
 * is decided by the card, never by chance.
 */

/** Test cards and what the gateway does with them; every other card is charged. */
export const TEST_CARDS = {
  charged: '4242-4242-4242-4242',
  declined: '4000-0000-0000-0002',
  insufficientFunds: '4000-0000-0000-9995',
  /** The gateway doesn't answer to the first two requests for a key, and does nothing. */
  unavailableTwice: '4000-0000-0000-0119',
  /** The card is charged, but the first answer is lost. */
  answerLost: '4000-0000-0000-0259',
  /** Its holder has to confirm: the answer comes later. */
  needsConfirmation: '4000-0000-0000-3220',
} as const;

export interface GatewayOperation {
  idempotencyKey: string;
  /** Id of the charge or refund. */
  operationId: string;
  kind: 'charge' | 'refund';
  status: 'succeeded' | 'declined' | 'awaitingHolder';
  /** The card charged, or the charge refunded. */
  target: string;
  amountCents: number;
  declineCode: string | null;
}

/** Where the gateway keeps its books. */
export interface GatewayStorage {
  /**
   * Keeps the operation, unless its key has one: then that one is returned with `fresh: false`. On return it is durable.
   * A refund is kept only if its charge has none yet; then null is returned.
   */
  record(
    operation: GatewayOperation,
  ): Promise<{ operation: GatewayOperation; fresh: boolean } | null>;
  find(operationId: string): Promise<GatewayOperation | null>;
  /**
   * Notes a request for a key. @returns which one it is (1, 2, …), or null, without counting, when an
   * earlier request came with a greater fencing token.
   */
  admit(idempotencyKey: string, fencingToken: string): Promise<number | null>;
}

/** Who asks, and for the how-manyth claim: both come with every request. */
export interface GatewayCaller {
  idempotencyKey: string;
  fencingToken: string;
  signal?: AbortSignal;
}

/** Anything that says nothing about what became of the operation: ask again with the same key. */
export class GatewayUnavailable extends Error {
  override name = 'GatewayUnavailable';
}
/** The request contradicts what the gateway knows: asking again won't help. */
export class GatewayRefusal extends Error {
  override name = 'GatewayRefusal';
}

export interface PaymentGateway {
  /** @throws GatewayUnavailable, GatewayRefusal */
  charge(
    caller: GatewayCaller,
    request: { card: string; amountCents: number },
  ): Promise<GatewayOperation>;
  /** Gives back all of a charge. @throws GatewayUnavailable, GatewayRefusal */
  refund(caller: GatewayCaller, request: { chargeId: string }): Promise<GatewayOperation>;
}

export function createGateway(storage: GatewayStorage): PaymentGateway {
  return {
    async charge(caller, { card, amountCents }) {
      const requestNumber = await admit(storage, caller);
      if (sameCard(card, TEST_CARDS.unavailableTwice) && requestNumber <= 2) {
        throw new GatewayUnavailable('503 from the gateway; ask again with the same key.');
      }
      const { operation, fresh } = await recordOnce(storage, {
        idempotencyKey: caller.idempotencyKey,
        operationId: `ch_${caller.idempotencyKey}`,
        kind: 'charge',
        target: card,
        amountCents,
        ...verdictOn(card),
      });
      if (fresh && sameCard(card, TEST_CARDS.answerLost)) {
        throw new GatewayUnavailable('The connection to the gateway broke before its answer came.');
      }
      return operation;
    },

    async refund(caller, { chargeId }) {
      await admit(storage, caller);
      const charge = await storage.find(chargeId);
      if (charge === null || charge.kind !== 'charge' || charge.status === 'declined') {
        throw new GatewayRefusal(`There is no charge ${chargeId} to refund.`);
      }
      const { operation } = await recordOnce(storage, {
        idempotencyKey: caller.idempotencyKey,
        operationId: `re_${caller.idempotencyKey}`,
        kind: 'refund',
        target: chargeId,
        amountCents: charge.amountCents,
        status: 'succeeded',
        declineCode: null,
      });
      return operation;
    },
  };
}

async function admit(storage: GatewayStorage, caller: GatewayCaller): Promise<number> {
  caller.signal?.throwIfAborted();
  const requestNumber = await storage.admit(caller.idempotencyKey, caller.fencingToken);
  if (requestNumber === null) {
    throw new GatewayRefusal(
      `Fencing token ${caller.fencingToken} is older than one seen for ${caller.idempotencyKey}; another worker has the command.`,
    );
  }
  return requestNumber;
}

async function recordOnce(
  storage: GatewayStorage,
  wanted: GatewayOperation,
): Promise<{ operation: GatewayOperation; fresh: boolean }> {
  const recorded = await storage.record(wanted);
  if (recorded === null) throw new GatewayRefusal(`${wanted.target} was refunded before.`);
  const { operation } = recorded;
  const same =
    operation.kind === wanted.kind &&
    operation.target === wanted.target &&
    operation.amountCents === wanted.amountCents;
  if (!same) {
    throw new GatewayRefusal(`${wanted.idempotencyKey} was used before for another request.`);
  }
  return recorded;
}

function verdictOn(card: string): Pick<GatewayOperation, 'status' | 'declineCode'> {
  if (sameCard(card, TEST_CARDS.declined)) {
    return { status: 'declined', declineCode: 'generic_decline' };
  }
  if (sameCard(card, TEST_CARDS.insufficientFunds)) {
    return { status: 'declined', declineCode: 'insufficient_funds' };
  }
  if (sameCard(card, TEST_CARDS.needsConfirmation)) {
    return { status: 'awaitingHolder', declineCode: null };
  }
  return { status: 'succeeded', declineCode: null };
}

/** Cards are written with and without blanks or dashes. */
function sameCard(a: string, b: string): boolean {
  return a.replace(/[\s-]/g, '') === b.replace(/[\s-]/g, '');
}
