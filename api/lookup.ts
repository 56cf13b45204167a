/**
 * Finding a saga, and a command within its history, for a request that names one.
 *
 * Guards that a saga accepted a moment ago is not answered with 404 only because its shard has not
 * applied the start yet: its id tells when it was made, and for a young one the answer waits a little.
 */
import type { z } from 'zod';
import type { AnyContract } from '../engine/core/contracts.ts';
import type { AnyDefinition } from '../engine/core/define.ts';
import { DefinitionFault } from '../engine/core/errors.ts';
import type { CommandOp, LoggedEvent } from '../engine/core/events.ts';
import { fit } from '../engine/core/fit.ts';
import { parseSnowflake } from '../engine/core/ids.ts';
import { isNestedBeyond, toJson, type Json } from '../engine/core/json.ts';
import type { Clock, SagaSummary } from '../engine/ports.ts';
import type { SagaReader } from '../engine/ports-read.ts';
import { ApiError, invalid, sagaUnknown } from './problems.ts';
import { hasEnded, type SagaWatch, type Waiter } from './watch.ts';

/**
 * An id younger than this may belong to a start that is still on its way: its shard may be changing owners,
 * or the engine be down for a while.
 */
const YOUNG_MS = 15 * 60_000;
/** How far the clock may be behind the one that made an id. */
const CLOCK_DIFFERENCE_MS = 10_000;

const PAGE = 500;
/** Events looked through for a command: longer histories than this are beyond what the engine keeps in memory. */
const MAX_EVENTS_SEARCHED = 100_000;

export interface FoundCommand {
  commandId: string;
  op: CommandOp;
  /** Name of the contract that answers it. */
  command: string;
  /** Name of the step (`src`): of the step itself, or of the one that is compensated or settled. */
  step: string;
  /** Newest attempt. */
  attempt: number;
}

export class Lookup {
  readonly #reader: SagaReader;
  readonly #watch: SagaWatch;
  readonly #clock: Clock;
  readonly #visibilityWaitMs: number;

  constructor(options: {
    reader: SagaReader;
    watch: SagaWatch;
    clock: Clock;
    visibilityWaitMs: number;
  }) {
    this.#reader = options.reader;
    this.#watch = options.watch;
    this.#clock = options.clock;
    this.#visibilityWaitMs = options.visibilityWaitMs;
  }

  /**
   * @param waitMs how long the caller would wait for it; at least the visibility wait is
   * @throws ApiError SAGA_UNKNOWN
   */
  async saga(namespace: string, sagaId: string, waiter: Waiter, waitMs = 0): Promise<SagaSummary> {
    const found = await this.#reader.get(namespace, sagaId);
    if (found !== null) return found;
    const ageMs = this.#clock.now() - parseSnowflake(sagaId).ms;
    const isYoung = ageMs < YOUNG_MS && ageMs > -CLOCK_DIFFERENCE_MS;
    if (isYoung) {
      const options = { ms: Math.max(this.#visibilityWaitMs, waitMs), waiter };
      const seen = await this.#watch.wait(namespace, sagaId, () => true, options);
      if (seen !== null) return seen;
    }
    const hint = isYoung
      ? ' If its start was accepted moments ago, the engine has not come to it yet: ask again.'
      : '';
    throw sagaUnknown(namespace, sagaId, hint);
  }

  /** The same, for a request that changes it. @throws ApiError SAGA_ENDED */
  async livingSaga(namespace: string, sagaId: string, waiter: Waiter): Promise<SagaSummary> {
    const summary = await this.saga(namespace, sagaId, waiter);
    if (hasEnded(summary)) {
      throw new ApiError(
        'SAGA_ENDED',
        `Saga ${sagaId} is ${summary.status}; nothing can follow its end.`,
      );
    }
    return summary;
  }

  /** @throws ApiError COMMAND_UNKNOWN when the saga's history has no request of it */
  async command(sagaId: string, commandId: string): Promise<FoundCommand> {
    const search = new CommandSearch(commandId);
    let after = 0;
    while (after < MAX_EVENTS_SEARCHED) {
      const page = await this.#reader.history(sagaId, after, PAGE);
      for (const logged of page) search.look(logged);
      const last = page.at(-1);
      if (last === undefined) break;
      after = last.streamVersion;
    }
    const found = search.found();
    if (found !== null) return found;
    throw new ApiError('COMMAND_UNKNOWN', `Saga ${sagaId} has requested no command ${commandId}.`);
  }
}

/** Collects, over a history, what one command is. */
class CommandSearch {
  readonly #commandId: string;
  readonly #steps = new Map<string, string>();
  #found: { op: CommandOp; command: string; of: string } | null = null;
  #attempt = 1;

  constructor(commandId: string) {
    this.#commandId = commandId;
  }

  look({ event }: LoggedEvent): void {
    if (event.type === 'StepRequested') this.#steps.set(event.commandId, event.step);
    if (!('commandId' in event) || event.commandId !== this.#commandId) return;
    switch (event.type) {
      case 'StepRequested':
        this.#found = { op: 'do', command: event.command, of: event.commandId };
        break;
      case 'CompensationRequested':
        this.#found = { op: 'compensate', command: event.command, of: event.of };
        break;
      case 'SettlementRequested':
        this.#found = { op: 'settle', command: event.command, of: event.of };
        break;
      case 'CommandRetried':
        this.#attempt = event.attempt;
        break;
      default:
    }
  }

  found(): FoundCommand | null {
    if (this.#found === null) return null;
    return {
      commandId: this.#commandId,
      op: this.#found.op,
      command: this.#found.command,
      step: this.#steps.get(this.#found.of) ?? '',
      attempt: this.#attempt,
    };
  }
}

/** The contract that a command's answer has to fit; null when this definition has no such step. */
export function contractOf(definition: AnyDefinition, found: FoundCommand): AnyContract | null {
  const spec = definition.actors.get(found.step);
  if (spec?.kind !== 'step') return null;
  const contract =
    found.op === 'compensate' ? (spec.compensation?.contract ?? null) : spec.contract;
  return contract !== null && contract.name === found.command ? contract : null;
}

/** Parses through a schema that may be asynchronous. */
export async function parseOr422<T>(
  schema: z.ZodType<T>,
  value: unknown,
  part: string,
): Promise<T> {
  const result = await schema.safeParseAsync(value);
  if (!result.success) throw invalid(part, result.error);
  return result.data;
}

/** Levels of what a saga is given: fewer than a message carries (63), so that the saga can wrap it on its way. */
const MAX_PAYLOAD_LEVELS = 48;

/** Anything that a saga is given, as plain JSON. @throws ApiError PAYLOAD_REFUSED when it is nested too deep */
export function payload(value: unknown, part: string): Json {
  const json = toJson(value, part);
  if (!isNestedBeyond(json, MAX_PAYLOAD_LEVELS)) return json;
  throw new ApiError(
    'PAYLOAD_REFUSED',
    `${part} is nested deeper than ${MAX_PAYLOAD_LEVELS} levels. Make it flatter, or send the deep part as a text.`,
  );
}

/**
 * A value as it was given, once it is seen to fit: the engine parses it by the same schema, so one that transforms
 * must not have been here before, and what would be refused there is refused here, to whoever sent it (I4).
 */
export async function givenOr422(schema: z.ZodType, value: unknown, part: string): Promise<Json> {
  const given = payload(value, part);
  const there = fit(schema, given, part);
  if ('data' in there) return given;
  await parseOr422(schema, value, part);
  // It fits, but not as the engine parses: the schema waits for something, or gives what is no JSON.
  throw new DefinitionFault('NOT_JSON', there.misfit);
}
