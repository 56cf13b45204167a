/** When a process that has become quiet collects its garbage, and that this gives memory back. */
import { describe, expect, it } from 'vitest';
import { HeapKeeper, nodeHost, type HeapHost } from '../../cli/memory.ts';

const MB = 1_000_000;

/** A process whose load and heap the test sets; a collection leaves `alive`. */
function fakeHost(): {
  host: HeapHost;
  set: (to: Partial<typeof state>) => void;
  collections: number[];
} {
  const state = { utilization: 0.01, heapBytes: 60 * MB, alive: 50 * MB, now: 0 };
  const collections: number[] = [];
  return {
    host: {
      utilization: () => state.utilization,
      heapBytes: () => state.heapBytes,
      monotonic: () => state.now,
      collect: () => {
        collections.push(state.now);
        state.heapBytes = state.alive;
      },
    },
    set: (to) => void Object.assign(state, to),
    collections,
  };
}

describe('the heap of a process that has become quiet', () => {
  it('is collected once after a burst, not during it', () => {
    const { host, set, collections } = fakeHost();
    const keeper = new HeapKeeper(host);
    expect(keeper.look()).toBe(false);
    set({ utilization: 0.9, heapBytes: 400 * MB, now: 2_000 });
    expect(keeper.look()).toBe(false);
    set({ utilization: 0.01, now: 4_000 });
    expect(keeper.look()).toBe(true);
    for (let now = 6_000; now < 200_000; now += 2_000) {
      set({ now });
      expect(keeper.look()).toBe(false);
    }
    expect(collections).toEqual([4_000]);
  });

  it('is left alone when what it holds is alive, and when it has grown by little', () => {
    const { host, set, collections } = fakeHost();
    const keeper = new HeapKeeper(host);
    keeper.look();
    set({ heapBytes: 100 * MB });
    keeper.look();
    expect(collections).toEqual([]);
    set({ heapBytes: 300 * MB, alive: 290 * MB });
    keeper.look();
    for (let now = 2_000; now < 200_000; now += 2_000) {
      set({ now });
      keeper.look();
    }
    expect(collections).toEqual([0]);
  });

  it('is not collected again before a rest, however the work drips', () => {
    const { host, set, collections } = fakeHost();
    const keeper = new HeapKeeper(host);
    keeper.look();
    for (let now = 0; now < 90_000; now += 2_000) {
      set({ now, heapBytes: 400 * MB });
      keeper.look();
    }
    expect(collections).toEqual([0, 30_000, 60_000]);
  });

  it('gives back what this process holds no more', () => {
    const { collect } = nodeHost();
    let burst: { n: number }[] | null = Array.from({ length: 1_000_000 }, (_, n) => ({ n }));
    const before = process.memoryUsage().heapUsed;
    expect(burst.length).toBe(1_000_000);
    burst = null;
    collect();
    // 1,000,000 objects of at least 24 bytes.
    expect(before - process.memoryUsage().heapUsed).toBeGreaterThan(20 * MB);
  });
});
