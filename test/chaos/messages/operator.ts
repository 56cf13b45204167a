/** An operator with the API: lists dead letters and redrives them, as the documentation says. */

export interface Letter {
  id: string;
  topic: string;
  partition: number;
  offset: string;
  code: string;
}

/** Most pages read of one list. */
const MAX_PAGES = 200;

export class Operator {
  readonly #api: string;

  /** @param env settings of the API's process */
  constructor(env: { readonly [name: string]: string }) {
    this.#api = `http://127.0.0.1:${env['SAGAX_PORT']}`;
  }

  /** All dead letters that were not redriven. */
  async letters(): Promise<Letter[]> {
    const found: Letter[] = [];
    let path: string | undefined = '/v1/dead-letters?limit=100';
    for (let page = 0; path !== undefined && page < MAX_PAGES; page += 1) {
      const answer = await fetch(`${this.#api}${path}`);
      if (answer.status !== 200) throw new Error(`The list answered ${answer.status}.`);
      const body = (await answer.json()) as { items: Letter[]; links: { next?: string } };
      found.push(...body.items);
      path = body.links.next;
    }
    return found;
  }

  /** @returns the answer's status, and its problem's code when it is a refusal */
  async redrive(letter: Letter): Promise<{ status: number; code: string | null }> {
    const answer = await fetch(`${this.#api}/v1/dead-letters/${letter.id}/redrive`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    });
    const body = (await answer.json()) as { code?: string };
    return { status: answer.status, code: body.code ?? null };
  }

  /** Starts an order. @returns its id, or null with the status when it was not accepted */
  async start(
    orderId: string,
  ): Promise<{ sagaId: string | null; status: number; retryAfterS: number | null }> {
    const answer = await fetch(`${this.#api}/v1/sagas`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': orderId },
      body: JSON.stringify({ definition: 'order', input: orderInput(orderId) }),
      signal: AbortSignal.timeout(60_000),
    });
    const body = (await answer.json()) as { sagaId?: string };
    const after = answer.headers.get('retry-after');
    return {
      sagaId: body.sagaId ?? null,
      status: answer.status,
      retryAfterS: after === null ? null : Number(after),
    };
  }

  /** Resolves when the saga has ended. @throws Error when it has not within the limit */
  async ended(sagaId: string, limitMs: number): Promise<void> {
    const giveUpAt = performance.now() + limitMs;
    for (;;) {
      const answer = await fetch(`${this.#api}/v1/sagas/${sagaId}/result?wait=30`);
      const body = (await answer.json()) as { status?: unknown };
      if (body.status === 'completed' || body.status === 'compensated') return;
      if (performance.now() < giveUpAt) continue;
      throw new Error(`Saga ${sagaId} did not end in ${limitMs} ms: ${JSON.stringify(body)}`);
    }
  }
}

function orderInput(orderId: string): object {
  return {
    orderId,
    email: 'ann@example.com',
    sku: `item-${String((orderId.length * 7) % 100).padStart(3, '0')}`,
    quantity: 1,
    amountCents: 4_200,
    card: '4242-4242-4242-4242',
    address: { name: 'Ann', street: 'Way 1', city: 'Ulm', postalCode: '89073', country: 'DE' },
  };
}
