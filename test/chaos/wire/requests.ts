/**
 * A client of the API as it should be: what is refused for now is asked again, under the same key.
 *
 * Guards that every request that got a 2xx is remembered (I4), and that an answer which a passing fault of the
 * database may not give is told: a 500, or a refusal of what was in order.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { AcceptedInput } from '../checker/evidence.ts';

export interface Answer {
  status: number;
  body: { [name: string]: unknown };
}

const PAUSE_MS = 100;
const REQUEST_LIMIT_MS = 60_000;

export class Requests {
  /** What was answered with a 2xx. */
  readonly accepted: AcceptedInput[] = [];
  /** Answers that should not have come, in words. */
  readonly wrong: string[] = [];
  /** 503 and broken connections: how often a request was asked again. */
  repeats = 0;
  readonly #api: () => string;
  readonly #stop: AbortSignal;
  readonly #headers: { readonly [name: string]: string };

  /**
   * @param api where the API is now; it may move when the process is started again
   * @param headers of every request
   */
  constructor(
    api: () => string,
    stop: AbortSignal,
    headers: { readonly [name: string]: string } = {},
  ) {
    this.#api = api;
    this.#stop = stop;
    this.#headers = headers;
  }

  get(path: string): Promise<Answer> {
    return this.#send(path, { method: 'GET' });
  }

  /**
   * @param key makes it repeatable; '' for a request that has no key
   * @param kind what the checker is to know of it, when it is taken
   */
  async post(
    path: string,
    key: string,
    body: object,
    kind?: { kind: AcceptedInput['kind']; sagaId?: string },
  ): Promise<Answer> {
    const sentAtMs = performance.now();
    const api = this.#api();
    const before = this.repeats;
    const answer = await this.#send(path, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(key === '' ? {} : { 'idempotency-key': key }),
      },
      body: JSON.stringify(body),
    });
    if (kind === undefined || answer.status >= 300) return answer;
    const { sagaId = kind.sagaId, inputId } = answer.body as { sagaId?: string; inputId?: string };
    this.accepted.push({
      kind: kind.kind,
      sagaId: String(sagaId),
      id: kind.kind === 'start' ? String(sagaId) : (inputId ?? null),
      key,
      process: api,
      sentAtMs,
      answeredAtMs: performance.now(),
      isFirstTry: before === this.repeats,
    });
    return answer;
  }

  /** @throws Error when stopped meanwhile */
  async #send(path: string, init: RequestInit): Promise<Answer> {
    for (;;) {
      this.#stop.throwIfAborted();
      const answer = await this.#once(path, init);
      if (answer !== null && answer.status !== 503) {
        if (answer.status === 500) {
          this.wrong.push(`${init.method} ${path}: 500 ${JSON.stringify(answer.body)}`);
        }
        return answer;
      }
      this.repeats += 1;
      await pause(PAUSE_MS, undefined, { signal: this.#stop });
    }
  }

  /** @returns null when no answer came */
  async #once(path: string, init: RequestInit): Promise<Answer | null> {
    const signal = AbortSignal.any([this.#stop, AbortSignal.timeout(REQUEST_LIMIT_MS)]);
    try {
      const headers = { ...this.#headers, ...(init.headers as { [name: string]: string }) };
      const answer = await fetch(`${this.#api()}${path}`, { ...init, headers, signal });
      const isJson = (answer.headers.get('content-type') ?? '').includes('json');
      const body = isJson
        ? ((await answer.json()) as Answer['body'])
        : { text: await answer.text() };
      return { status: answer.status, body };
    } catch {
      return null;
    }
  }
}
