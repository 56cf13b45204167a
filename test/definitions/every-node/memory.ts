/** The store in memory under a clock that moves while commands run. */
import type { MemoryTx } from '../../../workers/memory/transaction.ts';
import type { MemoryRig } from '../../workers/support/memory-rig.ts';
import type { StoreRig } from '../../workers/support/stores.ts';

/** Steps of the clock while a command waits for another's lease. */
const STEP_MS = 5;

/** Moves the clock until the work is done: a worker that waits for another's claim looks again after a pause. */
export async function pumped<T>(rig: StoreRig<MemoryTx>, work: Promise<T>): Promise<T> {
  let isDone = false;
  const done = work.finally(() => {
    isDone = true;
  });
  const pump = (async () => {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (isDone) return;
      await (rig as MemoryRig).clock.advance(STEP_MS);
    }
  })();
  const result = await done;
  await pump;
  return result;
}
