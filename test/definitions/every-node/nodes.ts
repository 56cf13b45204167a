/**
 * The example sagas as lists of nodes: ways through each machine, and what each of their commands is.
 *
 * Guards that a new step is covered by itself: nodes come from the definition and from a run of it, not from
 * a list; `unreached` names the invokes of a machine that no way comes to.
 */
import { z } from 'zod';
import { definitions } from '../../../definitions/index.ts';
import { APPROVAL_LIMIT_CENTS } from '../../../definitions/order/saga.ts';
import type { AnyContract } from '../../../engine/core/contracts.ts';
import type { AnyDefinition } from '../../../engine/core/define.ts';
import type { StepClass } from '../../../engine/core/events.ts';
import type { Json } from '../../../engine/core/json.ts';
import type { StepSpec } from '../../../engine/core/steps.ts';
import type { SagaDriver } from '../../support/saga-driver.ts';

/** One way through a definition: an input, and what people do when the saga waits for them. */
export interface Way {
  readonly name: string;
  readonly definition: AnyDefinition;
  readonly input: Json;
  /** Called when no participant has anything to do. @returns whether it did something. */
  readonly act: (driver: SagaDriver) => boolean;
}

const address = { name: 'A', street: 'B', city: 'C', postalCode: '1', country: 'DE' };
const orderInput = {
  orderId: 'o-1',
  email: 'ada@example.com',
  sku: 'book',
  quantity: 1,
  amountCents: 5_000,
  card: '4242',
  address,
  approvalTimeoutMs: 86_400_000,
};
const tripInput = {
  tripId: 't-1',
  traveller: 'Ada',
  email: 'ada@example.com',
  flight: 'SG100',
  hotel: 'grand',
  city: 'lisbon',
  carClass: 'compact',
  nights: 2,
  amountCents: 90_000,
  card: '4242',
};
const transferInput = {
  transferId: 'x-1',
  from: 'alice',
  to: 'bob',
  amountCents: 100,
  email: 'ada@example.com',
};

const nobody = (): boolean => false;
const approves = (driver: SagaDriver): boolean =>
  driver.value.endsWith('awaitingApproval') &&
  driver.signal('approve', { by: 'grace' }).kind === 'accepted';

export const WAYS: readonly Way[] = [
  way('order', 'order', orderInput),
  way(
    'order above the limit',
    'order',
    { ...orderInput, amountCents: APPROVAL_LIMIT_CENTS + 1 },
    approves,
  ),
  way('trip', 'trip', tripInput),
  way('trip without a car', 'trip', { ...tripInput, carClass: null }),
  way('transfer', 'transfer', transferInput),
];

function way(name: string, definitionName: string, input: Json, act: Way['act'] = nobody): Way {
  const definition = definitions.find((one) => one.name === definitionName);
  if (definition === undefined) throw new Error(`There is no definition "${definitionName}".`);
  return { name, definition, input, act };
}

/** A step that a way comes to. */
export interface Node {
  readonly step: string;
  readonly actorId: string;
  readonly class: StepClass;
  readonly spec: StepSpec;
}

/** The steps of a finished run, in the order of their requests. */
export function nodesOf(definition: AnyDefinition, driver: SagaDriver): Node[] {
  return driver.events().flatMap((event) => {
    if (event.type !== 'StepRequested') return [];
    const spec = specOf(definition, event.step);
    return [{ step: event.step, actorId: event.actorId, class: event.class, spec }];
  });
}

export function specOf(definition: AnyDefinition, step: string): StepSpec {
  const spec = definition.actors.get(step);
  if (spec?.kind !== 'step') throw new Error(`"${step}" is no step of ${definition.name}.`);
  return spec;
}

interface StateNode {
  readonly invoke: readonly { id: string; src: unknown }[];
  readonly states: { readonly [name: string]: StateNode };
}

/** Ids of the invokes in all examples that none of `reached` (`definition/actorId`) is. */
export function unreached(reached: ReadonlySet<string>): string[] {
  return definitions.flatMap((definition) =>
    invokesOf(definition.machine.root as unknown as StateNode)
      .filter(({ src }) => definition.actors.get(String(src))?.kind === 'step')
      .map(({ id }) => `${definition.name}/${id}`)
      .filter((id) => !reached.has(id)),
  );
}

function invokesOf(node: StateNode): { id: string; src: unknown }[] {
  return [...node.invoke, ...Object.values(node.states).flatMap(invokesOf)];
}

/** Every contract that the definitions' steps use, forward and backward, once each. */
export function contractsOf(all: readonly AnyDefinition[]): AnyContract[] {
  const found = new Map<string, AnyContract>();
  for (const definition of all) {
    for (const spec of definition.actors.values()) {
      if (spec.kind !== 'step') continue;
      for (const contract of [spec.contract, spec.compensation?.contract]) {
        if (contract !== undefined) found.set(contract.name, contract);
      }
    }
  }
  return [...found.values()];
}

/** A value that fits a schema; its texts are made from `seed`, so that each command's answer is its own. */
export function sampleOf(schema: z.ZodType, seed: string): Json {
  return sample(z.toJSONSchema(schema, { io: 'input' }) as JsonSchema, seed);
}

interface JsonSchema {
  type?: string;
  properties?: { [name: string]: JsonSchema };
  required?: string[];
  anyOf?: JsonSchema[];
  minimum?: number;
  exclusiveMinimum?: number;
  pattern?: string;
}

function sample(schema: JsonSchema, seed: string): Json {
  if (schema.anyOf?.[0] !== undefined) return sample(schema.anyOf[0], seed);
  switch (schema.type) {
    case 'object':
      return Object.fromEntries(
        Object.entries(schema.properties ?? {}).map(([name, one]) => [
          name,
          sample(one, `${name}-${seed}`),
        ]),
      );
    case 'string':
      if (schema.pattern === undefined) return seed;
      break;
    case 'integer':
    case 'number':
      return schema.minimum ?? (schema.exclusiveMinimum ?? 0) + 1;
    case 'boolean':
      return true;
    case 'array':
      return [];
    default:
  }
  throw new Error(`No sample for ${JSON.stringify(schema)}; teach sampleOf this kind of schema.`);
}
