/** What a run of a handler leaves behind when it is over: nothing, whatever the garbage collector did meanwhile. */
import { getEventListeners } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { ManualClock } from '../../engine/memory/clock.ts';
import { CommandFailure } from '../../workers/failures.ts';
import { RunScope } from '../../workers/run.ts';

function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}

it('lets go of the signal of its worker, though memory was collected while it ran', async () => {
  const worker = new AbortController();
  const scopes = Array.from({ length: 20 }, () => new RunScope(new ManualClock(), worker.signal));
  expect(getEventListeners(worker.signal, 'abort')).toHaveLength(20);
  // What is held weakly is kept to the end of the turn in which it was made.
  await turn();
  collectGarbage();
  await turn();
  for (const scope of scopes) scope.dispose();
  expect(getEventListeners(worker.signal, 'abort')).toEqual([]);
});

it('ends when its worker ends, and not after it is over', async () => {
  const worker = new AbortController();
  const clock = new ManualClock();
  const [running, over] = [new RunScope(clock, worker.signal), new RunScope(clock, worker.signal)];
  over.dispose();
  worker.abort();
  expect(running.signal.reason).toBeInstanceOf(CommandFailure);
  expect(over.signal.aborted).toBe(false);
  expect(new RunScope(clock, worker.signal).signal.aborted).toBe(true);
  running.dispose();
});
