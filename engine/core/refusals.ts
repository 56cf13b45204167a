/** How a definition is refused: the error, and the names that its words use. */
import type { StateNode } from 'xstate';
import { DefinitionFault } from './errors.ts';

/** The one event under our prefix that a machine may handle. */
export const CANCEL_EVENT = 'saga.cancel';

export function refuse(message: string): DefinitionFault {
  return new DefinitionFault('DEFINITION_INVALID', message);
}

/** How a refusal names a state: `State "order.reserving"`. */
export function stateName(node: StateNode): string {
  return `State "${node.path.length === 0 ? '(root)' : node.path.join('.')}"`;
}
