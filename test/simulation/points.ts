/**
 * What the simulation has to reach: every I/O point with every fault, every outcome of a decision, every verb.
 *
 * Guards against blind spots: what is declared here and was not met in a whole run of the build fails it, and so
 * does a point that is met and not declared.
 */
import { FAULTS } from '../../engine/memory/faults.ts';
import type { ErrorCode } from '../../engine/core/errors.ts';

/**
 * Operations of the participants' store; each has a point before and one after it. `takeOver` is not among them: it
 * happens only after an effect handler was deployed anew as a transactional one, which test/workers/ does.
 */
const STORE_OPERATIONS = [
  'answer',
  'begin',
  'claim',
  'commit',
  'endLease',
  'extend',
  'insert',
  'park',
  'read',
  'record',
  'rollbackToSavepoint',
  'savepoint',
  'start',
  'tx.delete',
  'tx.get',
  'tx.list',
  'tx.set',
  'withdraw',
] as const;

export const POINTS: readonly string[] = [
  'bus.assignment',
  'bus.commit',
  'bus.committed',
  'bus.endOffsets',
  'bus.ensureTopics',
  'bus.fetch',
  'bus.leave',
  'bus.ping',
  'bus.publish',
  'deadLetters.get',
  'deadLetters.list',
  'deadLetters.markRedriven',
  'log.append',
  'log.dueWakeups',
  'log.load',
  'log.readOutbox',
  'nodeIds.acquire',
  'nodeIds.release',
  'nodeIds.renew',
  'outside.ask',
  'reader.get',
  'reader.getMany',
  'reader.history',
  'reader.list',
  'reader.ping',
  'reader.shards',
  'shards.acquire',
  'shards.release',
  'shards.renew',
  'startKeys.reserve',
  ...STORE_OPERATIONS.flatMap((operation) => [
    `store.${operation}:before`,
    `store.${operation}:after`,
  ]),
];

/** Calls that few seeds make: faults are sought out there. */
export const RARE_POINTS: readonly string[] = POINTS.filter((point) =>
  /^(deadLetters|nodeIds\.release|bus\.leave|startKeys|log\.readOutbox)|^store\.(park|rollback|extend|withdraw|tx\.delete|tx\.list|endLease|record)/.test(
    point,
  ),
);

/** Every fault at every point. */
export const FAULT_POINTS: readonly string[] = FAULTS.flatMap((fault) =>
  POINTS.map((point) => `${fault} ${point}`),
);

/** Outcomes of `decide` for each kind of input. A wake is never refused. */
export const DECISIONS: readonly string[] = [
  ...['start', 'reply', 'signal', 'cancel', 'operator', 'wake'].flatMap((input) => [
    `decide ${input} accepted`,
    `decide ${input} ignored`,
  ]),
  'decide reply refused',
  'decide signal refused',
  'decide operator refused',
];

export const VERBS = ['pause', 'resume', 'retry', 'resolve', 'skip'] as const;

/** Codes that must be met: in events, dead letters and errors. The others belong to the API, the CLI and set-up. */
export const CODES: readonly ErrorCode[] = [
  'BUS_UNAVAILABLE',
  'CANCELLED',
  'COMMAND_UNKNOWN',
  'COMMIT_UNKNOWN',
  'COMPENSATION_FAILED',
  'DATABASE_UNAVAILABLE',
  'DEFINITION_UNKNOWN',
  'FENCED',
  'INPUT_INVALID',
  'MACHINE_FAULT',
  'MESSAGE_INVALID',
  'NODE_LEASE_LOST',
  'PIVOT_PASSED',
  'SAGA_UNKNOWN',
  'SETTLEMENT_FAILED',
  'SIGNAL_RECEIVED',
  'SIGNAL_UNKNOWN',
  'STEP_ATTEMPTS_EXHAUSTED',
  'STEP_TIMED_OUT',
  'TIMER_FIRED',
];
