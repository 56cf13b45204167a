/** The clock by the database's clock: never ahead of it, whatever the way there and back takes. */
import { expect, test } from 'vitest';
import { openClock } from '../../engine/postgres/clock.ts';
import type { Database } from '../../engine/postgres/pool.ts';

/** A database whose clock is `ahead_ms` ahead of ours; each look takes `there` ms and `back` ms. */
function databaseWith(
  delays: readonly { there: number; back: number }[],
  ahead_ms: number,
): { db: Database; monotonic: () => number } {
  let [time_ms, look] = [0, 0];
  const read = (): Promise<{ at: number }[]> => {
    const { there, back } = delays[look++ % delays.length] ?? { there: 0, back: 0 };
    time_ms += there;
    const at = time_ms + ahead_ms;
    time_ms += back;
    return Promise.resolve([{ at }]);
  };
  return { db: { read } as unknown as Database, monotonic: () => time_ms };
}

test.each([
  ['a slow way back', [{ there: 1, back: 80 }]],
  ['a slow way there', [{ there: 80, back: 1 }]],
  [
    'ways of all kinds',
    [
      { there: 3, back: 40 },
      { there: 90, back: 2 },
      { there: 7, back: 9 },
    ],
  ],
])('%s does not put it ahead of the database (I11)', async (_name, delays) => {
  const { db, monotonic } = databaseWith(delays, 5_000);
  const clock = await openClock(db, { monotonic });
  clock.close();
  const truth_ms = monotonic() + 5_000;
  expect(clock.now()).toBeLessThanOrEqual(truth_ms);
  expect(truth_ms - clock.now()).toBeLessThanOrEqual(clock.errorMs() + 1);
  expect(truth_ms - clock.now()).toBeLessThanOrEqual(
    Math.min(...delays.map(({ back }) => back)) + 1,
  );
});
