/**
 * The three shapes of saga that processes die under, each with one end that is known beforehand.
 *
 * Guards that a crash which changes how a saga ends is seen: by the end, and not only by the log's rules.
 */
import type { DrawnSaga } from '../sagas.ts';

export interface Shape {
  readonly name: string;
  readonly what: string;
  /** The `n`-th saga of the load, under this shape. */
  draw(n: number): DrawnSaga;
}

const CHARGED = '4242-4242-4242-4242';
/** Above this an order waits for a person. */
const NEEDS_APPROVAL_CENTS = 250_000;
const APPROVAL_TIMEOUT_MS = 700;
/** For those that are approved: longer than any restart, and short enough to be waited for when no approval got through. */
const PATIENT_MS = 60_000;
/** An approval that comes before the saga waits for it does nothing, so it is sent again; one too late is refused. */
const APPROVE_AFTER_MS = [500, 3_000, 9_000, 20_000];

function order(prefix: string, n: number, changes: object): DrawnSaga {
  const input = {
    orderId: `${prefix}-${n}`,
    email: 'ann@example.com',
    sku: `item-${String((n % 100) + 1).padStart(3, '0')}`,
    quantity: 1,
    amountCents: 4_200,
    card: CHARGED,
    address: { name: 'Ann', street: 'Way 1', city: 'Ulm', postalCode: '89073', country: 'DE' },
    ...changes,
  };
  return { definition: 'order', input, later: [] };
}

export const completes: Shape = {
  name: 'completes',
  what: 'an order through transactional handlers and a charge to its end',
  draw: (n) => order('done', n, {}),
};

const compensates: Shape = {
  name: 'compensates',
  what: 'an order that nobody ships: the charge, an effect handler, is refunded, the stock released',
  draw: (n) =>
    order('back', n, {
      address: { name: 'Ann', street: 'Way 1', city: 'Pole', postalCode: '0', country: 'AQ' },
    }),
};

/** Two in three are approved by a signal; the third is left until its timer takes it back. */
const waits: Shape = {
  name: 'waits',
  what: 'an order that waits for a signal or its timer',
  draw: (n) => {
    const drawn = order('wait', n, {
      amountCents: NEEDS_APPROVAL_CENTS,
      approvalTimeoutMs: n % 3 === 0 ? APPROVAL_TIMEOUT_MS : PATIENT_MS,
    });
    if (n % 3 !== 0) {
      const body = { by: 'bob' };
      for (const afterMs of APPROVE_AFTER_MS) {
        drawn.later.push({ kind: 'signal', name: 'approve', afterMs, body });
      }
    }
    return drawn;
  },
};

export const shapes: readonly Shape[] = [completes, compensates, waits];

/** How a saga of these shapes may end, whatever died on the way. */
export function rightEnds(input: { orderId?: unknown; approvalTimeoutMs?: unknown }): string[] {
  const id = String(input.orderId);
  if (id.startsWith('back-')) return ['compensated'];
  if (!id.startsWith('wait-')) return ['completed'];
  const isLeftToTimer = input.approvalTimeoutMs === APPROVAL_TIMEOUT_MS;
  return isLeftToTimer ? ['compensated'] : ['completed', 'compensated'];
}
