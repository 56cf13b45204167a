/**
 * Starting sagas: the request becomes a saga id and a start message, once for each key.
 *
 * Guards I4 for starts: with a key, the id is reserved before the message goes out, so a repeat gets the
 * id that won. If the process dies between the two, the repeat puts the start again, and the shard ignores
 * one that its stream already has.
 */
import { createHash } from 'node:crypto';
import type { z } from 'zod';
import type { AnyDefinition } from '../engine/core/define.ts';
import { SagaxError } from '../engine/core/errors.ts';
import { parseSnowflake } from '../engine/core/ids.ts';
import { canonicalJson, type Json } from '../engine/core/json.ts';
import { StartIds } from '../engine/core/start-ids.ts';
import type { BusMessage, Clock, SagaSummary } from '../engine/ports.ts';
import type { SagaReader, StartKeys } from '../engine/ports-read.ts';
import type { Catalog } from './catalog.ts';
import type { Inbox } from './inbox.ts';
import { parseOr422, payload } from './lookup.ts';
import type { StartAnswer, StartRequest } from './schemas.ts';
import { resultView, sagaLinks } from './views.ts';

export interface StartOrder {
  namespace: string;
  request: StartRequest;
  idempotencyKey: string | undefined;
  traceparent: string | undefined;
  /** Where the input stands in the request, for issues: `body.input`. */
  inputPart: string;
}

/** A start that has its id. */
export interface PlannedStart {
  sagaId: string;
  answer: StartAnswer;
  /** A repeat of a request that came before. */
  replayed: boolean;
  /** To be put into the inbox; null when the saga is there already. */
  message: BusMessage | null;
}

/** What became of one item of a batch: it has its id, or this is why not. */
export type BatchOutcome = PlannedStart | { refused: unknown };

/** Reservations of a batch that run side by side: enough to hide the round trip, few enough for the pool. */
const RESERVING_AT_ONCE = 16;

/**
 * A reserved saga that is not there and is younger than this was never begun, whatever the database says of its week:
 * SAGAX_RETENTION_DAYS is at least 1, and half of that leaves room for clocks.
 */
const NEVER_DROPPED_MS = 43_200_000;

export class Starts {
  readonly #catalog: Catalog;
  readonly #inbox: Inbox;
  readonly #startKeys: StartKeys;
  readonly #reader: SagaReader;
  readonly #ids: StartIds;
  readonly #clock: Clock;

  constructor(options: {
    catalog: Catalog;
    inbox: Inbox;
    startKeys: StartKeys;
    reader: SagaReader;
    ids: { next(): string };
    clock: Clock;
  }) {
    this.#catalog = options.catalog;
    this.#inbox = options.inbox;
    this.#startKeys = options.startKeys;
    this.#reader = options.reader;
    const { ids, inbox, clock } = options;
    this.#ids = new StartIds(ids, inbox.shards, () => clock.monotonic());
    this.#clock = options.clock;
  }

  /**
   * On return the start is durable in the inbox, or its saga exists.
   * @throws ApiError DEFINITION_UNKNOWN, INPUT_INVALID, PAYLOAD_REFUSED; SagaxError KEY_REUSED, OVERLOADED, BUS_UNAVAILABLE, DATABASE_UNAVAILABLE
   */
  async start(order: StartOrder): Promise<PlannedStart> {
    this.#inbox.assertRoom();
    const planned = await this.#plan(order);
    if (planned.message !== null) await this.#inbox.send([planned.message]);
    return planned;
  }

  /**
   * Many starts in one publish. On return every planned one is durable; a refused one is its error.
   * @throws SagaxError when the publish fails: any of them may be there; keyed ones can be repeated
   */
  async startBatch(orders: readonly (StartOrder | SagaxError)[]): Promise<BatchOutcome[]> {
    this.#inbox.assertRoom(orders.length);
    const outcomes: BatchOutcome[] = [];
    for (let from = 0; from < orders.length; from += RESERVING_AT_ONCE) {
      const chunk = orders.slice(from, from + RESERVING_AT_ONCE).map(async (order) => {
        if (order instanceof SagaxError) return { refused: order };
        return this.#plan(order).catch((error: unknown) => ({ refused: error }));
      });
      outcomes.push(...(await Promise.all(chunk)));
    }
    const messages = new Map<string, BusMessage>();
    for (const outcome of outcomes) {
      // Two items with one key are one saga, and one message.
      if ('refused' in outcome || outcome.message === null) continue;
      messages.set(outcome.sagaId, outcome.message);
    }
    await this.#inbox.send([...messages.values()]);
    return outcomes;
  }

  async #plan(order: StartOrder): Promise<PlannedStart> {
    const { request, namespace } = order;
    const definition = this.#catalog.get(request.definition, request.version);
    const parsed: unknown = await parseOr422(
      definition.input as z.ZodType,
      request.input,
      order.inputPart,
    );
    const input = payload(parsed, order.inputPart);
    const fresh = this.#message(order, definition, input, this.#ids.next());
    if (order.idempotencyKey === undefined && request.businessKey === undefined) return fresh;

    const reserved = await this.#startKeys.reserve({
      namespace,
      definition: definition.name,
      sagaId: fresh.sagaId,
      fingerprint: fingerprintOf(request),
      ...(order.idempotencyKey !== undefined && { idempotencyKey: order.idempotencyKey }),
      ...(request.businessKey !== undefined && { businessKey: request.businessKey }),
    });
    if (reserved.fresh) return fresh;
    const existing = await this.#reader.get(namespace, reserved.sagaId);
    if (existing !== null) return replayOf(existing);
    if (await this.#mayHaveRun(reserved.sagaId)) {
      throw new SagaxError(
        'KEY_REUSED',
        `The key belongs to saga ${reserved.sagaId}, which is no longer kept. Use a new key for a new saga.`,
      );
    }
    // The one who reserved it may have died before its start was in the bus, so it is put again.
    return { ...this.#message(order, definition, input, reserved.sagaId), replayed: true };
  }

  /**
   * Of a reserved saga that was not found: it may have run, ended and been dropped with its week, and a second start would
   * run it again. Keys go with the week, but over several databases they stay until the last of them has dropped it.
   */
  async #mayHaveRun(sagaId: string): Promise<boolean> {
    if (this.#clock.now() - parseSnowflake(sagaId).ms < NEVER_DROPPED_MS) return false;
    return !(await this.#reader.isKept(sagaId));
  }

  #message(
    order: StartOrder,
    definition: AnyDefinition,
    input: Json,
    sagaId: string,
  ): PlannedStart {
    const { request, namespace, traceparent } = order;
    const body = {
      sagaId,
      namespace,
      definition: definition.name,
      definitionVersion: definition.version,
      input,
      ...(request.businessKey !== undefined && { businessKey: request.businessKey }),
      ...(request.attributes !== undefined && { attributes: request.attributes }),
      ...(traceparent !== undefined && { traceparent }),
    };
    return {
      sagaId,
      replayed: false,
      message: this.#inbox.message(`start:${sagaId}`, { type: 'start', body }, traceparent),
      answer: {
        sagaId,
        namespace,
        definition: definition.name,
        version: definition.version,
        status: 'accepted',
        links: sagaLinks(namespace, sagaId),
      },
    };
  }
}

function replayOf(summary: SagaSummary): PlannedStart {
  return { sagaId: summary.sagaId, replayed: true, message: null, answer: startedView(summary) };
}

/** A started saga as the answer to its start, with what became of it. */
export function startedView(summary: SagaSummary): StartAnswer {
  return {
    ...resultView(summary),
    namespace: summary.namespace,
    definition: summary.definition,
    version: summary.definitionVersion,
  };
}

/**
 * The request as it was asked, not as it was resolved: a default that a schema fills in with the time, or a
 * newer version deployed between a request and its repeat, must not make the repeat another request.
 */
function fingerprintOf(request: StartRequest): string {
  const { definition, version, input, businessKey, attributes } = request;
  const asked = { definition, version, input, businessKey, attributes };
  return createHash('sha256').update(canonicalJson(asked)).digest('hex');
}
