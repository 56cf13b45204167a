/** The sagas of the load: orders, trips and transfers of every end, some with timers, signals and cancels. */
import type { Dice } from '../support/dice.ts';

export interface DrawnSaga {
  definition: 'order' | 'trip' | 'transfer';
  input: object;
  /** What is sent to it afterwards. */
  later: { kind: 'signal' | 'cancel'; name: string; afterMs: number; body: object }[];
}

const CARDS = {
  charged: '4242-4242-4242-4242',
  declined: '4000-0000-0000-0002',
  unavailableTwice: '4000-0000-0000-0119',
  answerLost: '4000-0000-0000-0259',
};
/** Above this an order waits for a person. */
const NEEDS_APPROVAL_CENTS = 250_000;

/** @param n names what the saga is about; the same n and state of chance give the same saga */
export function drawSaga(n: number, random: Dice): DrawnSaga {
  const shape = random.next();
  const drawn =
    shape < 0.5
      ? order(n, random)
      : shape < 0.6
        ? approval(n, random)
        : shape < 0.8
          ? trip(n, random)
          : transfer(n, random);
  if (random.chance(0.05)) {
    const body = { reason: 'changed my mind', by: 'client' };
    drawn.later.push({ kind: 'cancel', name: '', afterMs: random.between(0, 1_500), body });
  }
  return drawn;
}

function two(n: number): string {
  return String((n % 100) + 1).padStart(3, '0');
}

function card(random: Dice): string {
  const x = random.next();
  if (x < 0.1) return CARDS.declined;
  if (x < 0.2) return CARDS.answerLost;
  return x < 0.25 ? CARDS.unavailableTwice : CARDS.charged;
}

function order(n: number, random: Dice): DrawnSaga {
  return {
    definition: 'order',
    input: {
      orderId: `order-${n}`,
      email: 'ann@example.com',
      sku: random.chance(0.1) ? 'sold-out' : `item-${two(n)}`,
      quantity: random.between(1, 3),
      amountCents: random.between(100, 90_000),
      card: card(random),
      address: {
        name: 'Ann',
        street: 'Way 1',
        city: 'Ulm',
        postalCode: '89073',
        country: random.chance(0.1) ? 'AQ' : 'DE',
      },
    },
    later: [],
  };
}

/** An order that waits for a person: approved, declined, or left until its timer. */
function approval(n: number, random: Dice): DrawnSaga {
  const drawn = order(n, random);
  const approvalTimeoutMs = random.between(500, 6_000);
  const input = { ...drawn.input, amountCents: NEEDS_APPROVAL_CENTS, approvalTimeoutMs };
  const x = random.next();
  const afterMs = random.between(0, 4_000);
  const signal =
    x < 0.4
      ? { name: 'approve', body: { by: 'bob' } }
      : { name: 'decline', body: { by: 'bob', reason: 'too dear' } };
  const later = x < 0.7 ? [{ kind: 'signal' as const, afterMs, ...signal }] : [];
  return { definition: 'order', input, later };
}

function trip(n: number, random: Dice): DrawnSaga {
  const x = random.next();
  return {
    definition: 'trip',
    input: {
      tripId: `trip-${n}`,
      traveller: 'Ann',
      email: 'ann@example.com',
      flight: x < 0.1 ? 'SG404' : 'SG100',
      hotel: x >= 0.1 && x < 0.2 ? 'full-house' : 'grand',
      city: 'lisbon',
      carClass: x >= 0.2 && x < 0.3 ? 'van' : random.chance(0.3) ? null : 'compact',
      nights: random.between(1, 10),
      amountCents: random.between(10_000, 90_000),
      card: card(random),
    },
    later: [],
  };
}

function transfer(n: number, random: Dice): DrawnSaga {
  const x = random.next();
  return {
    definition: 'transfer',
    input: {
      transferId: `transfer-${n}`,
      from: x < 0.1 ? 'a-poor' : `a-${two(n)}`,
      to: x >= 0.1 && x < 0.25 ? 'b-closed' : `b-${two(n)}`,
      amountCents: random.between(200, 5_000),
      email: 'ann@example.com',
    },
    later: [],
  };
}
