/** The poller that all long polls and event streams of a process share. */
import { describe, expect, it } from 'vitest';
import { SagaWatch } from '../../api/watch.ts';
import { ManualClock, settle } from '../../engine/memory/index.ts';
import type { SagaSummary } from '../../engine/ports.ts';

const summary = (streamVersion: number): SagaSummary =>
  ({ sagaId: '1', namespace: 'default', status: 'running', streamVersion }) as SagaSummary;

function openWatch(limit = 10) {
  const clock = new ManualClock();
  const startedAt = clock.now();
  const state = { version: 1, failing: false };
  const ticks: number[] = [];
  const errors: unknown[] = [];
  const watch = new SagaWatch({
    clock,
    limit,
    onError: (error) => errors.push(error),
    reader: {
      getMany: async () => {
        ticks.push(clock.now() - startedAt);
        if (state.failing) throw new Error('away');
        return [summary(state.version)];
      },
    },
  });
  return { clock, watch, state, ticks, errors };
}
const silent = { caller: 'me', onSummary: () => undefined, onClosed: () => undefined };

describe('SagaWatch', () => {
  it('slows from 10 to 250 ms while nothing happens, and hurries for news and newcomers', async () => {
    const { clock, watch, state, ticks } = openWatch();
    const remove = watch.add('default', '1', silent);
    await clock.advance(2_000);
    const gaps = ticks.slice(1).map((at, n) => at - (ticks[n] ?? 0));
    expect(gaps[0]).toBe(10);
    expect(gaps.at(-1)).toBe(250);
    expect(gaps).toEqual([...gaps].sort((a, b) => a - b));
    state.version = 2;
    const changedAt = ticks.length;
    await clock.advance(500);
    const news = ticks.slice(changedAt);
    expect((news[1] ?? 0) - (news[0] ?? 0)).toBe(10);
    await clock.advance(2_000);
    const before = ticks.length;
    const removeOther = watch.add('default', '2', silent);
    await settle();
    expect(ticks.length).toBe(before + 1);
    remove();
    removeOther();
    await clock.advance(1_000);
    const stopped = ticks.length;
    await clock.advance(5_000);
    // Nobody waits, nobody asks.
    expect(ticks.length).toBe(stopped);
    expect(watch.count).toBe(0);
  });

  it('asks less often while the database is away, and goes on when it is back', async () => {
    const { clock, watch, state, ticks, errors } = openWatch();
    state.failing = true;
    const seen: number[] = [];
    watch.add('default', '1', {
      ...silent,
      onSummary: ({ streamVersion }) => seen.push(streamVersion),
    });
    await clock.advance(5_000);
    expect(ticks.length).toBeLessThanOrEqual(11);
    expect(errors).toHaveLength(ticks.length);
    state.failing = false;
    await clock.advance(500);
    expect(seen[0]).toBe(1);
  });

  it('gives the newest summary at the end of the wait, or what the reader failed with', async () => {
    const { clock, watch, state } = openWatch();
    const options = { ms: 1_000, waiter: { caller: 'me', gone: new AbortController().signal } };
    const waited = watch.wait('default', '1', () => false, options);
    await clock.advance(1_000);
    expect(await waited).toMatchObject({ streamVersion: 1 });
    state.failing = true;
    const failed = watch
      .wait('default', '1', () => false, options)
      .catch((error: unknown) => error);
    await clock.advance(1_000);
    expect(await failed).toMatchObject({ message: 'away' });
    expect(watch.count).toBe(0);
  });

  it('has a limit, and ends at once when closed', async () => {
    const { clock, watch } = openWatch(1);
    const options = { ms: 60_000, waiter: { caller: 'me', gone: new AbortController().signal } };
    const waited = watch.wait('default', '1', () => false, options);
    expect(() => watch.add('default', '2', silent)).toThrow(/already wait/);
    await clock.sleeping();
    watch.close();
    await waited;
    expect(watch.count).toBe(0);
  });
});
