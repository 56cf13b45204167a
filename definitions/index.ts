/** The example definitions, for whoever starts an engine with all of them. */
import type { AnyDefinition } from '../engine/core/index.ts';
import { order } from './order/saga.ts';
import { transfer } from './transfer/saga.ts';
import { trip } from './trip/saga.ts';

export const definitions: readonly AnyDefinition[] = [order, trip, transfer];
