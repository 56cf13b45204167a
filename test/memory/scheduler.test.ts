/** The simulated world: virtual time, seeded order, deaths and stops of nodes, and determinism. */
import { describe, expect, test } from 'vitest';
import { CALM, World, WORLD_START_MS, type FaultPlan } from '../../engine/memory/index.ts';

const STORMY: FaultPlan = {
  ...CALM,
  latencyMs: [0, 20],
  slowChance: 0.1,
  slowMs: [50, 500],
  failChance: 0.1,
  unknownChance: 0.1,
  crashChance: 0.02,
  pauseChance: 0.02,
  pauseMs: [10, 1000],
  clockLagMs: 5,
};

/** Three nodes that add to a shared counter until they die. */
async function runSome(seed: number): Promise<{ hash: string; lines: string[]; total: number }> {
  const lines: string[] = [];
  const world = new World({ seed, faults: STORMY, trace: (line) => lines.push(line) });
  let total = 0;
  for (const name of ['a', 'b', 'c']) {
    const node = world.node(name);
    void (async () => {
      for (let i = 0; i < 50; i++) {
        await node.io({ point: 'add', work: () => (total += 1) }).catch(() => undefined);
        await node.clock.sleep(7);
      }
    })();
  }
  expect(await world.run({})).toBe('idle');
  return { hash: world.traceHash, lines, total };
}

describe('World', () => {
  test('one seed gives one run, another seed another', async () => {
    const first = await runSome(1);
    const again = await runSome(1);
    const other = await runSome(2);
    expect(first.lines.length).toBeGreaterThan(50);
    expect(again).toEqual(first);
    expect(other.hash).not.toBe(first.hash);
  });

  test('time is virtual: a sleep of 30 days ends at its time, abortable', async () => {
    const world = new World({ seed: 1 });
    const { clock } = world.node('n');
    const woken: [string, number, boolean][] = [];
    const controller = new AbortController();
    const note = (name: string) => (value: boolean) =>
      woken.push([name, world.now - WORLD_START_MS, value]);
    void clock.sleep(30 * 86_400_000).then(note('long'));
    void clock.sleep(1_000, controller.signal).then(note('aborted'));
    world.schedule(400, () => controller.abort());
    await world.run({});
    expect(woken).toEqual([
      ['aborted', 400, false],
      ['long', 30 * 86_400_000, true],
    ]);
  });

  test('a dead node hears nothing any more; its request that was sent still takes effect', async () => {
    const world = new World({ seed: 3, faults: { ...CALM, latencyMs: [5, 5] } });
    const node = world.node('n');
    let written = 0;
    let heard = 0;
    let woken = 0;
    const write = (): void =>
      void node.io({ point: 'w', work: () => (written += 1) }).then(() => (heard += 1));
    write();
    void node.clock.sleep(3).then(() => (woken += 1));
    world.schedule(1, () => node.crash());
    world.schedule(2, write);
    await world.run({});
    expect({ written, heard, woken }).toEqual({ written: 1, heard: 0, woken: 0 });
  });

  test('a stopped node goes on later, with what came for it in the meantime', async () => {
    const world = new World({ seed: 3, faults: { ...CALM, latencyMs: [5, 5] } });
    const node = world.node('n');
    const heardAt: number[] = [];
    let silent = 0;
    node.onSilent(50, () => (silent += 1));
    node.onSilent(500, () => (silent += 10));
    void node
      .io({ point: 'w', work: () => world.now })
      .then((at) => heardAt.push(at - WORLD_START_MS, world.now - WORLD_START_MS));
    void node.clock.sleep(20).then(() => heardAt.push(world.now - WORLD_START_MS));
    world.schedule(1, () => node.pause(100));
    await world.run({});
    expect(heardAt.sort((a, b) => a - b)).toEqual([5, 101, 101]);
    expect(silent).toBe(1);
  });

  test('each fault is what it says: not done, done but unknown, dead before, during, after', async () => {
    const seen = new Map<string, Set<string>>();
    for (let seed = 1; seed <= 200; seed++) {
      const world = new World({
        seed,
        faults: { ...CALM, failChance: 0.25, unknownChance: 0.25, crashChance: 0.25 },
      });
      const node = world.node('n');
      let done = 0;
      let result = 'silence';
      const call = { point: 'p', work: () => (done += 1), unknown: () => new Error('unknown') };
      node.io(call).then(
        () => (result = 'answer'),
        (error: unknown) =>
          (result = (error as Error).message === 'unknown' ? 'unknown' : 'failure'),
      );
      await world.run({});
      const fate = [...world.tally.keys()][0]?.split(' ')[0] ?? 'done';
      seen.set(fate, (seen.get(fate) ?? new Set()).add(`${result} ${done}`));
    }
    expect(Object.fromEntries([...seen].map(([fate, results]) => [fate, [...results]]))).toEqual({
      done: ['answer 1'],
      failed: ['failure 0'],
      unknownDone: ['unknown 1'],
      unknownNotDone: ['unknown 0'],
      unknownPartial: ['unknown 1'],
      crashBefore: ['silence 0'],
      crashDuring: ['silence 1'],
      crashAfter: ['silence 1'],
    });
  });
});
