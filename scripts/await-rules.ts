/**
 * What a promise is, by where its maker is declared: the rules of scripts/await-sites.ts.
 *
 * Guards that the list of what does no I/O is short, written down, and each entry has its reason. What is
 * not in here has either crash points or a finding.
 */
import { SyntaxKind, type Node } from 'typescript/unstable/ast';

/**
 * `site`: does I/O, has crash points. `inner`: code that is itself looked at. `handed-in`: a function that came
 * as an argument; whoever wrote it is looked at. `combinator`: joins promises that are looked at one by one.
 * `wait`: time, or another part of the same process.
 */
export type Kind = 'site' | 'inner' | 'handed-in' | 'combinator' | 'wait';

/** Packages whose every promise is I/O. */
const CLIENTS = /^node_modules\/(@types\/pg|kafkajs|@types\/node\/fs)\//;
/** Timers: nothing is read or written, so a crash in one is a crash at the point before it. */
const TIMERS = /^node_modules\/@types\/node\/timers\//;
/** Promise.all, then, catch, and containers of promises: each promise in them is looked at where it is made. */
const LANGUAGE = /^node_modules\/@typescript\/[^/]+\/lib\/lib\.es/;
const PORTS = /^(engine|workers)\/ports[^/]*\.ts$/;
/** Code that is looked at itself, or does no I/O by the import rules (engine/core). */
const OURS = /^(engine|workers)\//;
const BODIES: ReadonlySet<SyntaxKind> = new Set([
  SyntaxKind.FunctionDeclaration,
  SyntaxKind.MethodDeclaration,
  SyntaxKind.ArrowFunction,
  SyntaxKind.FunctionExpression,
]);

/**
 * `<file of the declaration> <callee>` of functions that come as arguments or stand behind an interface of ours.
 * `site`: what is behind it is not looked at, so the points stand at the call.
 */
const DECLARED: { readonly [call: string]: 'site' | 'inner' | 'handed-in' | 'wait' } = {
  // Each statement by itself, beside the one place where all of them pass.
  'engine/postgres/pool.ts db.read': 'site',
  'engine/postgres/pool.ts db.write': 'site',
  'engine/postgres/pool.ts database.read': 'site',
  'engine/postgres/pool.ts database.write': 'site',
  // The user's handler: between it and the record of its answer lies what the barrier is for.
  'workers/handlers.ts run': 'site',
  // A service's connection; `pg` stands behind it.
  'workers/services/sql.ts sql.query': 'site',
  'workers/services/sql.ts tx.query': 'site',
  // Whoever knows the token; it may be a call of another server.
  'engine/kafka/options.ts token': 'site',
  // Of node:zlib, on bytes in memory.
  'engine/kafka/codecs.ts inflateZstd': 'wait',
  'engine/kafka/codecs.ts deflateZstd': 'wait',
  // Made in gateway.ts and gateway-storage.ts.
  'workers/services/payments/gateway.ts gateway.charge': 'inner',
  'workers/services/payments/gateway.ts gateway.refund': 'inner',
  'workers/services/payments/gateway.ts storage.admit': 'inner',
  'workers/services/payments/gateway.ts storage.find': 'inner',
  'workers/services/payments/gateway.ts storage.record': 'inner',
  // The bus gives batches and assignments to the runtime and the workers.
  // One database of the log: made by openPostgres, or by whoever opens a part.
  'engine/postgres/index.ts ports.close': 'inner',
  'engine/postgres/index.ts ports.maintain': 'inner',
  'engine/postgres/log-part.ts open': 'handed-in',
  'engine/ports.ts onAssigned': 'handed-in',
  'engine/ports.ts onRevoked': 'handed-in',
  'engine/kafka/known-topics.ts ask': 'handed-in',
  'engine/kafka/lane.ts host.onBatch': 'handed-in',
  'engine/postgres/bus-lane.ts onBatch': 'handed-in',
  // Given by the only one who makes such an object.
  'engine/postgres/gather.ts how.alone': 'handed-in',
  'engine/postgres/gather.ts how.together': 'handed-in',
  'workers/lanes.ts task.run': 'handed-in',
};

/** Functions that make a promise by hand, and what settles it: a timer, or another part of the process. */
const WAIT_ONLY: { readonly [place: string]: string } = {
  'engine/kafka/failures.ts#withDeadline': 'a timer',
  'engine/kafka/known-topics.ts#search': 'a timer',
  'engine/kafka/lane.ts#pause': 'a timer or the end of the lane',
  'engine/kafka/publisher.ts#publish': 'the sending loop',
  'engine/kafka/subscription.ts#closed': 'the end of the subscription',
  'engine/kafka/subscription.ts#ready': 'the first assignment',
  'engine/postgres/bus-bells.ts#bind': 'a port of this machine that was given or refused',
  'engine/postgres/bus-membership.ts#sleep': 'a timer or a wake-up',
  'engine/postgres/bus-poller.ts#orTraffic': 'a reading, or messages that were found beside it',
  'engine/postgres/bus-poller.ts#sleep': 'a timer or a wake-up',
  'engine/postgres/bus-publisher.ts#publish': 'the writing loop',
  'engine/postgres/bus-subscription.ts#ready': 'the first assignment',
  'engine/postgres/clock.ts#sleepOnce': 'a timer',
  'engine/postgres/gather.ts#run': 'the statement that it went out with',
  'engine/runtime/engine.ts#databaseAway': 'an opening of a shard that failed',
  'engine/runtime/relay.ts#room': 'the relay that got further',
  'engine/runtime/shard.ts#enqueue': 'the batch that took it',
  'workers/batches.ts#run': 'the batch that took it',
  'workers/lanes.ts#changed': 'a command that ended',
  'workers/replies.ts#publish': 'the sending loop',
  'workers/run.ts#constructor': 'an abort',
  'workers/slots.ts#take': 'a slot that came free',
  'workers/worker.ts#constructor': 'the end of the worker',
  'workers/worker.ts#released': 'the end of the drain',
};

export function isWaitOnly(place: string): boolean {
  return Object.hasOwn(WAIT_ONLY, place);
}

/**
 * @param path file of the declaration, relative to the project; empty when there is none
 * @returns null when no rule knows it
 */
export function kindOf(path: string, declared: Node | undefined, callee: string): Kind | null {
  const call = `${path} ${callee}`;
  if (Object.hasOwn(DECLARED, call)) return DECLARED[call] ?? null;
  if (CLIENTS.test(path)) return 'site';
  if (TIMERS.test(path)) return 'wait';
  if (LANGUAGE.test(path)) return 'combinator';
  if (declared === undefined) return null;
  if (OURS.test(path) && isParameter(declared)) return 'handed-in';
  if (PORTS.test(path) && declared.kind === SyntaxKind.MethodSignature) {
    return ownerOf(declared) === 'Clock' ? 'wait' : 'site';
  }
  return OURS.test(path) && BODIES.has(declared.kind) ? 'inner' : null;
}

/** A function type written at a parameter: what comes in is an argument of code that is looked at. */
function isParameter(declared: Node): boolean {
  return declared.kind === SyntaxKind.FunctionType && declared.parent.kind === SyntaxKind.Parameter;
}

function ownerOf(declared: Node): string {
  return (declared.parent as unknown as { name?: Node }).name?.getText() ?? '';
}

/** Entries that match nothing any more would let something new pass under their name. */
export function unusedRules(usedCalls: ReadonlySet<string>, places: ReadonlySet<string>): string[] {
  return [
    ...Object.keys(DECLARED).filter((call) => !usedCalls.has(call)),
    ...Object.keys(WAIT_ONLY).filter((place) => !places.has(place)),
  ];
}
