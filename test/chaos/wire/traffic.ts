/**
 * Sagas of every shape of the examples, and every request of the API: what makes all statements run.
 *
 * Guards that each saga's end is known beforehand: what a participant answers is decided by the input alone,
 * so that a fault of the wire may delay an end and must not change it.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { TERMINAL_STATUSES } from '../../../engine/core/events.ts';
import { Requests, type Answer } from './requests.ts';

type End = 'completed' | 'compensated';

interface Shape {
  definition: 'order' | 'trip' | 'transfer';
  end: End;
  input: (id: string) => object;
  /** What a person or another system does while it runs. */
  play?: (traffic: Traffic, sagaId: string) => Promise<void>;
}

const address = (country: string): object => ({
  name: 'Ann',
  street: 'Way 1',
  city: 'Ulm',
  postalCode: '89073',
  country,
});
const order = (id: string, over: object = {}): object => ({
  orderId: id,
  email: 'ann@example.com',
  sku: 'book',
  quantity: 1,
  amountCents: 4_200,
  card: '4242424242424242',
  address: address('DE'),
  ...over,
});
const trip = (id: string, over: object = {}): object => ({
  tripId: id,
  traveller: 'Ann',
  email: 'ann@example.com',
  flight: 'SG100',
  hotel: 'grand',
  city: 'lisbon',
  carClass: 'compact',
  nights: 2,
  amountCents: 50_000,
  card: '4242424242424242',
  ...over,
});
const transfer = (id: string, over: object = {}): object => ({
  transferId: id,
  from: 'alice',
  to: 'bob',
  // More than the poor account has, and little enough for alice to pay for thousands of rounds.
  amountCents: 101,
  email: 'ann@example.com',
  ...over,
});
/** Above it a person must approve. */
const DEAR = { amountCents: 200_000 };
const HOUR_MS = 3_600_000;
const STATE_POLL_MS = 50;
/** Where nothing more is to be waited for. */
const ENDED: ReadonlySet<unknown> = new Set([...TERMINAL_STATUSES, 'stuck']);
const BY = { by: 'chaos', reason: 'a run' };

export const SHAPES: readonly Shape[] = [
  { definition: 'order', end: 'completed', input: (id) => order(id) },
  { definition: 'order', end: 'compensated', input: (id) => order(id, { sku: 'sold-out' }) },
  {
    definition: 'order',
    end: 'compensated',
    input: (id) => order(id, { card: '4000000000000002' }),
  },
  { definition: 'order', end: 'compensated', input: (id) => order(id, { address: address('AQ') }) },
  { definition: 'order', end: 'completed', input: (id) => order(id, { card: '4000000000000119' }) },
  { definition: 'order', end: 'completed', input: (id) => order(id, { card: '4000000000000259' }) },
  {
    definition: 'order',
    end: 'completed',
    input: (id) => order(id, { card: '4000000000003220' }),
    play: async (traffic, sagaId) => {
      const pending = await traffic.event(sagaId, 'StepPending');
      if (pending === null) return;
      const commandId = String((pending['data'] as { commandId?: unknown }).commandId);
      traffic.elsewhere.add(commandId);
      await traffic.act(`/v1/commands/${commandId}/complete`, {
        outcome: 'succeeded',
        output: { paymentId: `ch_${commandId}` },
      });
    },
  },
  {
    definition: 'order',
    end: 'completed',
    input: (id) => order(id, DEAR),
    play: async (traffic, sagaId) => {
      if (!(await traffic.state(sagaId, /awaitingApproval/))) return;
      await traffic.act(`/v1/sagas/${sagaId}/pause`, BY);
      await traffic.act(`/v1/sagas/${sagaId}/signals/approve`, { by: 'Eve' }, 'signal', sagaId);
      await traffic.act(`/v1/sagas/${sagaId}/resume`, BY);
    },
  },
  {
    definition: 'order',
    end: 'compensated',
    input: (id) => order(id, DEAR),
    play: async (traffic, sagaId) => {
      if (!(await traffic.state(sagaId, /awaitingApproval/))) return;
      await traffic.act(
        `/v1/sagas/${sagaId}/signals/decline`,
        { by: 'Eve', reason: 'too dear' },
        'signal',
        sagaId,
      );
    },
  },
  {
    definition: 'order',
    end: 'compensated',
    input: (id) => order(id, { ...DEAR, approvalTimeoutMs: HOUR_MS }),
    play: async (traffic, sagaId) => {
      if (!(await traffic.state(sagaId, /awaitingApproval/))) return;
      await traffic.act(`/v1/sagas/${sagaId}/cancel`, BY, 'cancel', sagaId);
    },
  },
  {
    definition: 'order',
    end: 'compensated',
    input: (id) => order(id, { ...DEAR, approvalTimeoutMs: 300 }),
  },
  { definition: 'trip', end: 'completed', input: (id) => trip(id) },
  { definition: 'trip', end: 'completed', input: (id) => trip(id, { carClass: null }) },
  { definition: 'trip', end: 'compensated', input: (id) => trip(id, { carClass: 'van' }) },
  { definition: 'trip', end: 'compensated', input: (id) => trip(id, { flight: 'SG404' }) },
  { definition: 'trip', end: 'compensated', input: (id) => trip(id, { hotel: 'full-house' }) },
  { definition: 'transfer', end: 'completed', input: (id) => transfer(id) },
  { definition: 'transfer', end: 'compensated', input: (id) => transfer(id, { from: 'a-poor' }) },
  { definition: 'transfer', end: 'compensated', input: (id) => transfer(id, { to: 'b-closed' }) },
];

export class Traffic {
  readonly requests: Requests;
  /** Sagas that were accepted, and how each must end. */
  readonly started = new Map<string, { end: End; shape: number }>();
  /** Commands that another system did and answered over REST: no book of a participant has them. */
  readonly elsewhere = new Set<string>();
  readonly #run = randomBytes(3).toString('hex');
  #count = 0;

  /** @param stop ends all requests: for a run that has failed */
  constructor(api: () => string, stop: AbortSignal) {
    this.requests = new Requests(api, stop);
  }

  /** One saga of each shape, played to where nothing more is to be done; their ends are not waited for. */
  async round(shapes: readonly Shape[] = SHAPES): Promise<void> {
    await Promise.all(shapes.map((shape) => this.start(shape)));
  }

  async start(shape: Shape): Promise<void> {
    const id = this.#nextKey();
    const { definition } = shape;
    const body = { definition, businessKey: id, input: shape.input(id) };
    const answer = await this.requests.post('/v1/sagas', `start-${id}`, body, { kind: 'start' });
    const sagaId = String(answer.body['sagaId']);
    if (answer.status >= 300) throw unexpected('a start', answer);
    this.started.set(sagaId, { end: shape.end, shape: SHAPES.indexOf(shape) });
    await shape.play?.(this, sagaId);
  }

  /** Every way of reading, and starts of many at once. */
  async look(): Promise<void> {
    const sagaId = [...this.started.keys()].at(-1) ?? '1';
    const id = this.#nextKey();
    const items = [1, 2].map((n) => ({ definition: 'transfer', input: transfer(`${id}-${n}`) }));
    const batch = await this.requests.post('/v1/sagas/batch', `batch-${id}`, { items });
    if (batch.status !== 200) throw unexpected('a batch', batch);
    const paths = [
      `/v1/sagas/${sagaId}`,
      `/v1/sagas/${sagaId}/history`,
      `/v1/sagas/${sagaId}/result?wait=1`,
      '/v1/sagas?limit=2&status=completed&definition=order',
      '/v1/sagas?limit=2&businessKey=nobody',
      '/v1/definitions',
      '/v1/definitions/order',
      '/v1/definitions/order/versions/1',
      '/v1/shards',
      '/healthz',
      '/metrics',
    ];
    for (const path of paths) {
      const answer = await this.requests.get(path);
      if (answer.status >= 300 && answer.status !== 404) throw unexpected(path, answer);
    }
    await this.#lookAtLetters(id);
  }

  async #lookAtLetters(id: string): Promise<void> {
    const letters = await this.requests.get('/v1/dead-letters?limit=5');
    const [letter] = (letters.body['items'] as { id: string }[] | undefined) ?? [];
    if (letter === undefined) return;
    await this.requests.get(`/v1/dead-letters/${letter.id}`);
    await this.requests.post(`/v1/dead-letters/${letter.id}/redrive`, `redrive-${id}`, {});
  }

  /** A request about a saga that runs. A repeat of one whose answer was lost may find the saga ended. */
  async act(
    path: string,
    body: object,
    kind?: 'signal' | 'cancel',
    sagaId?: string,
  ): Promise<void> {
    const about = kind === undefined || sagaId === undefined ? undefined : { kind, sagaId };
    const answer = await this.requests.post(path, `act-${this.#nextKey()}`, body, about);
    if (answer.status >= 300 && answer.status !== 409) throw unexpected(path, answer);
  }

  /** Waits until the saga is in a state. @returns false when it has ended: a step timed out before it got there */
  async state(sagaId: string, pattern: RegExp): Promise<boolean> {
    for (;;) {
      const { body } = await this.requests.get(`/v1/sagas/${sagaId}`);
      if (pattern.test(JSON.stringify(body['state'] ?? ''))) return true;
      if (ENDED.has(body['status'])) return false;
      await pause(STATE_POLL_MS);
    }
  }

  /** Waits for the first event of a type. @returns null when the saga has ended without it */
  async event(sagaId: string, type: string): Promise<{ [field: string]: unknown } | null> {
    for (;;) {
      const { body: saga } = await this.requests.get(`/v1/sagas/${sagaId}`);
      const { body } = await this.requests.get(`/v1/sagas/${sagaId}/history`);
      const items = (body['items'] as { type: string }[] | undefined) ?? [];
      const found = items.find((one) => one.type === type);
      if (found !== undefined) return found;
      if (ENDED.has(saga['status'])) return null;
      await pause(STATE_POLL_MS);
    }
  }

  #nextKey(): string {
    this.#count += 1;
    return `${this.#run}-${this.#count}`;
  }
}

function unexpected(what: string, answer: Answer): Error {
  return new Error(`${what} was answered with ${answer.status}: ${JSON.stringify(answer.body)}`);
}
