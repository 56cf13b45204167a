/**
 * A steady load of sagas by REST, of several shapes and ends, that remembers what was acknowledged.
 *
 * Guards that "acknowledged" means a 2xx that a client has read. A request that got none is sent again under
 * its key until it gets one, as a good client does; some are sent twice at once, as a bad one does.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { AcceptedInput } from './checker/evidence.ts';
import type { Dice } from '../support/dice.ts';
import { drawSaga, type DrawnSaga } from './sagas.ts';

/** Grows from try to try, so that clients do not hold down a system that comes back. */
const RETRY_PAUSE_MS = { first: 250, most: 2_000 };
/** Beyond what a loaded machine takes: a request that is given up while it is served makes more work, not less. */
const REQUEST_LIMIT_MS = 30_000;
/** Starts that wait for an answer at most; beyond it the load pauses, so that an outage does not pile up. */
const MAX_PENDING = 150;
const TWICE_CHANCE = 0.05;
/** A saga that was acknowledged may take this long until the API finds it; then a signal is given up. */
const FIND_LIMIT_MS = 90_000;

export interface LoadOptions {
  /** Present address of an API, and a name of the process behind it. */
  api: () => { url: string; process: string };
  perS: number;
  random: Dice;
  /** Header of every request. */
  authorization?: string;
  /** The n-th saga. Default: a mixture of all shapes. */
  draw?: (n: number, random: Dice) => DrawnSaga;
}

export class Load {
  readonly accepted: AcceptedInput[] = [];
  /** Answers that are neither an acceptance nor a reason to try again: the load itself is wrong. */
  readonly refused: string[] = [];
  #started = 0;
  readonly #options: LoadOptions;
  readonly #pending = new Set<Promise<void>>();
  #pump: Promise<void> | null = null;
  #stopped = new AbortController();
  #isClosed = false;

  constructor(options: LoadOptions) {
    this.#options = options;
  }

  /** Sagas acknowledged by now. */
  get sagas(): number {
    return new Set(this.accepted.map(({ sagaId }) => sagaId)).size;
  }

  /** Starts and what follows them, under way or without an answer so far. */
  get pending(): number {
    return this.#pending.size;
  }

  start(): void {
    this.#stopped = new AbortController();
    this.#pump = this.#run(this.#stopped.signal);
  }

  /** No new sagas; resolves when every request under way has its answer. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#pump;
    while (this.#pending.size > 0) await Promise.all(this.#pending);
  }

  /** Ends at once; requests without an answer are given up. For a stage that is torn down. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.stop();
  }

  async #run(signal: AbortSignal): Promise<void> {
    const begun = performance.now();
    for (let n = 0; !signal.aborted; n++) {
      const wait_ms = begun + (n * 1_000) / this.#options.perS - performance.now();
      if (wait_ms > 0) await pause(wait_ms, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      if (this.#pending.size < MAX_PENDING) this.#track(this.#one(this.#started++));
    }
  }

  #track(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => void this.refused.push(String(error)))
      .finally(() => this.#pending.delete(tracked));
    this.#pending.add(tracked);
  }

  async #one(n: number): Promise<void> {
    const { random } = this.#options;
    const drawn = (this.#options.draw ?? drawSaga)(n, random);
    const key = `start-${n}`;
    const isTwice = random.chance(TWICE_CHANCE);
    const starts = [this.#startSaga(key, drawn, !isTwice)];
    if (isTwice) starts.push(this.#startSaga(key, drawn, false));
    const [sagaId] = await Promise.all(starts);
    if (sagaId === undefined || sagaId === null) return;
    for (const [index, input] of drawn.later.entries()) {
      await pause(input.afterMs);
      const path = input.kind === 'cancel' ? 'cancel' : `signals/${input.name}`;
      await this.#send(`/v1/sagas/${sagaId}/${path}`, {
        kind: input.kind,
        key: `${input.kind}-${n}-${index}`,
        body: input.body,
        sagaId,
        isOnce: true,
      });
    }
  }

  #startSaga(key: string, drawn: DrawnSaga, isOnce: boolean): Promise<string | null> {
    const body = { definition: drawn.definition, input: drawn.input };
    return this.#send('/v1/sagas', { kind: 'start', key, body, sagaId: null, isOnce });
  }

  /** @returns the saga's id, or null when the input came too late */
  async #send(
    path: string,
    wanted: {
      kind: AcceptedInput['kind'];
      key: string;
      body: object;
      sagaId: string | null;
      isOnce: boolean;
    },
  ): Promise<string | null> {
    const { kind, key, body } = wanted;
    const giveUpAt = performance.now() + FIND_LIMIT_MS;
    for (let attempt = 1; !this.#isClosed; attempt++) {
      const { url, process } = this.#options.api();
      const sentAtMs = performance.now();
      const answer = await post(`${url}${path}`, key, body, this.#options.authorization);
      const answeredAtMs = performance.now();
      if (answer !== null && answer.status >= 200 && answer.status < 300) {
        const { sagaId, inputId } = answer.body as { sagaId: string; inputId?: string };
        const isFirstTry = attempt === 1 && wanted.isOnce;
        const times = { sentAtMs, answeredAtMs, isFirstTry };
        this.accepted.push({ kind, sagaId, id: inputId ?? null, key, process, ...times });
        return sagaId;
      }
      // Not found: the start is durable, but not applied yet. A conflict: the saga has ended, or is past its pivot.
      const isLate = answer?.status === 409 && kind !== 'start';
      const isLost = answer?.status === 404 && performance.now() > giveUpAt;
      if (isLate) return null;
      const isWrong =
        answer !== null && [400, 401, 403, 405, 409, 413, 422].includes(answer.status);
      if (isWrong || isLost) {
        this.refused.push(`${kind} ${key}: ${answer?.status} ${JSON.stringify(answer?.body)}`);
        return null;
      }
      await pause(Math.min(RETRY_PAUSE_MS.most, RETRY_PAUSE_MS.first * attempt));
    }
    return null;
  }
}

/** @returns null when no answer came */
async function post(
  url: string,
  key: string,
  body: object,
  authorization: string | undefined,
): Promise<{ status: number; body: unknown } | null> {
  try {
    const answer = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'idempotency-key': key,
        ...(authorization === undefined ? {} : { authorization }),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(REQUEST_LIMIT_MS),
    });
    return { status: answer.status, body: await answer.json().catch(() => null) };
  } catch {
    return null;
  }
}
