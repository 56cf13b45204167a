/**
 * What an author of sagas and contracts imports. Definitions import nothing else of the engine.
 */
export {
  command,
  failureOf,
  isRejection,
  type AnyContract,
  type CancelEvent,
  type CommandContract,
  type InputOf,
  type InputSent,
  type OutputGiven,
  type OutputOf,
  type RejectionCode,
  type RejectionData,
  type Rejections,
  type StepError,
} from './contracts.ts';
export {
  compensatable,
  compensateAll,
  pivot,
  readOnly,
  retriable,
  type CompensatableOptions,
  type RetryOptions,
  type StepOptions,
} from './steps.ts';
export {
  defineSaga,
  type AnyDefinition,
  type SagaDefinition,
  type SignalEvent,
  type SignalSchemas,
} from './define.ts';
export type { Duration } from './durations.ts';
export type { Failure } from './events.ts';
export { DefinitionFault } from './errors.ts';
export type { Json } from './json.ts';
