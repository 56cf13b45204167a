/**
 * What a service developer imports: contracts, the two kinds of handlers, and what runs them.
 *
 * `export const services = [defineService({ service, handlers: [transactional(contract, run)] })]` is run by
 * `npm run worker` (SAGAX_WORKERS); `createWorker({ service, handlers, store, bus, clock, topicPrefix, … })` is the same
 * within a process of your own.
 */
export {
  command,
  isRejection,
  type AnyContract,
  type CommandContract,
  type InputOf,
  type OutputGiven,
  type OutputOf,
  type RejectionCode,
  type RejectionData,
} from '../engine/core/contracts.ts';
export { PARTICIPANT_FAILURES, type ParticipantFailureCode } from './failures.ts';
export {
  effect,
  transactional,
  type EffectContext,
  type EffectFn,
  type EffectOptions,
  type Handler,
  type Log,
  type Pending,
  type Rejected,
  type TransactionalContext,
  type TransactionalFn,
} from './handlers.ts';
export { ParticipantDatabase } from './memory/database.ts';
export { memoryStore, type MemoryStore, type MemoryStoreOptions } from './memory/store.ts';
export type { Gate, MemoryTx } from './memory/transaction.ts';
export type { CommandLabels, WorkerMetrics } from './metrics.ts';
export type { ParticipantStore } from './ports.ts';
export { defineService, type Service, type ServiceOptions } from './postgres/service.ts';
export { postgresStore, type PostgresStore, type PostgresStoreOptions } from './postgres/store.ts';
export type { PgTx } from './postgres/transaction.ts';
export { createWorker, type Worker, type WorkerOptions } from './worker.ts';
