/**
 * The driver: a process of its own that puts load on a system and watches its sagas end.
 *
 * Guards that what it costs to ask is not counted to the system. Its parent sends one request at a time
 * and gets the window's edges and the answer; when the parent goes, it goes.
 */
import { Agent } from 'node:http';
import { HttpTarget, postJson } from './http-target.ts';
import { runLoad, type Target } from './load.ts';
import type { DriverAnswer, DriverRequest, DriverTask, TargetAddress } from './driver-client.ts';
import { SagaxTarget } from './sagax-target.ts';

/** Starts of sleeping sagas in flight to the bus. */
const START_LANES = 2_000;

function say(answer: DriverAnswer): void {
  process.send?.(answer);
}

async function openTarget(address: TargetAddress): Promise<Target> {
  return address.kind === 'http' ? new HttpTarget(address.url) : SagaxTarget.open(address);
}

/** Runs `work` for 0..count-1, at most `lanes` at once. */
async function each(
  count: number,
  lanes: number,
  work: (n: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(lanes, count) }, lane));
}

/** Sagas that this process put to sleep, until they end. */
const sleeping = new Map<string, Promise<{ ended_at_ms: number }>>();

async function sleep(
  target: SagaxTarget,
  task: DriverTask & { kind: 'sleep' },
): Promise<{ elapsed_ms: number }> {
  const begun = performance.now();
  await each(task.count, START_LANES, async (n) => {
    const due_at_ms = task.first_due_at_ms + (n * task.spread_ms) / task.count;
    const delayMs = Math.max(1, Math.round(due_at_ms - Date.now()));
    const { sagaId, ended } = await target.start('sleeper', { delayMs });
    const seen = ended.then(() => ({ ended_at_ms: performance.timeOrigin + performance.now() }));
    sleeping.set(sagaId, seen);
  });
  return { elapsed_ms: performance.now() - begun };
}

/** Waits for sagas that were put to sleep. @returns when each was seen to have ended, ms since the epoch */
async function awaitAll(sagaIds: readonly string[] | null): Promise<[string, number][]> {
  const wanted = sagaIds ?? [...sleeping.keys()];
  const ends: [string, number][] = [];
  for (const sagaId of wanted) {
    const end = await sleeping.get(sagaId);
    if (end === undefined) throw new Error(`Saga ${sagaId} was not started here.`);
    ends.push([sagaId, end.ended_at_ms]);
  }
  return ends;
}

async function restStarts(task: DriverTask & { kind: 'rest' }): Promise<{ per_s: number }> {
  const agent = new Agent({ keepAlive: true });
  const until = performance.now() + task.seconds * 1000;
  const one = { definition: 'sleeper', input: { delayMs: 86_400_000 } };
  const body = task.batch === 1 ? one : { items: Array.from({ length: task.batch }, () => one) };
  const url = `${task.url}/v1/sagas${task.batch === 1 ? '' : '/batch'}`;
  let accepted = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < until) {
      const answer = await postJson(agent, url, body);
      if (answer.status >= 300) throw new Error(`REST answered ${answer.status}: ${answer.body}`);
      accepted += task.batch;
    }
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: task.lanes }, lane));
  agent.destroy();
  return { per_s: (accepted * 1000) / (performance.now() - begun) };
}

function sagaxOnly(target: Target): SagaxTarget {
  if (target instanceof SagaxTarget) return target;
  throw new Error('Only Sagax is asked for this.');
}

async function perform(target: Target, task: DriverTask): Promise<unknown> {
  switch (task.kind) {
    case 'load':
      return runLoad(target, task.load, (edge) => say({ edge }));
    case 'sleep':
      target.watch('many');
      return sleep(sagaxOnly(target), task);
    case 'go':
      await each(task.sagaIds.length, START_LANES, (n) =>
        sagaxOnly(target).signal(task.sagaIds[n] ?? '', 'go'),
      );
      return null;
    case 'awaitAll':
      return awaitAll(task.sagaIds);
    case 'rest':
      return restStarts(task);
  }
}

let target: Target | null = null;

async function answer(request: DriverRequest): Promise<void> {
  try {
    if (request.open !== undefined) {
      target = await openTarget(request.open);
      return say({ result: null });
    }
    if (target === null || request.task === undefined) throw new Error('Nothing is open.');
    say({ result: await perform(target, request.task) });
  } catch (error) {
    say({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
}

process.on('message', (request: DriverRequest) => void answer(request));
process.once('disconnect', () => {
  void Promise.resolve(target?.close()).finally(() => process.exit());
});
