/** What counts as clean: a campaign that broke nothing, or did not get to its end, proves nothing. */
import { expect, test } from 'vitest';
import { isClean, runCampaign, type Campaign } from './campaign.ts';
import { merge, table } from './report.ts';
import type { Settled } from './stage.ts';

const settled: Settled = {
  violations: [],
  ends: { completed: 1 },
  unexpected: [],
  evidence: { sagas: [{ sagaId: '1' }] } as unknown as Settled['evidence'],
};
const campaign = (run: Campaign['run']): Campaign => ({
  name: 'trial',
  faults: 'none at all',
  sizes: { ci: 3, release: 100 },
  run,
});
const rowOf = (run: Campaign['run']) => runCampaign(campaign(run), 'ci', 7, () => undefined);

test('a clean one says how to run it again', async () => {
  const row = await rowOf((_open, size: number) => Promise.resolve({ faults: size, settled }));
  expect(isClean(row)).toBe(true);
  expect(row).toMatchObject({ faults: 3, sagas: 1, error: null });
  expect(row.command).toBe('npm run chaos -- --size ci --only trial --seed 7');
  const text = table({ date: '2026-01-01T00:00:00Z', commit: 'abc', machine: 'm', rows: [row] });
  expect(text).toContain('| trial | none at all | 3 | 1 (1 completed) | 0 | 0 |');
});

test.each([
  ['injected nothing', { faults: 0, settled }],
  [
    'ran no saga',
    {
      faults: 3,
      settled: { ...settled, evidence: { sagas: [] } as unknown as Settled['evidence'] },
    },
  ],
  [
    'violated an invariant',
    {
      faults: 3,
      settled: {
        ...settled,
        violations: [{ invariant: 'I1' as const, sagaId: null, what: 'gap' }],
      },
    },
  ],
  [
    'lost a process',
    {
      faults: 3,
      settled: { ...settled, unexpected: [{ role: 'engine' as const, code: 70, said: 'oh' }] },
    },
  ],
])('one that %s is not clean', async (_what, outcome) => {
  expect(isClean(await rowOf(() => Promise.resolve(outcome)))).toBe(false);
});

test('one that throws is not clean, and says why', async () => {
  const row = await rowOf(() => Promise.reject(new Error('the broker did not come up')));
  expect(isClean(row)).toBe(false);
  expect(row.error).toContain('the broker did not come up');
});

test('of runs in parts one table is made: the latest of each campaign, in their order', async () => {
  const [older, newer] = await Promise.all(
    [1, 2].map((faults) => rowOf(() => Promise.resolve({ faults, settled }))),
  );
  const other = { ...older!, campaign: 'another' };
  const machine = 'm';
  const merged = merge(
    [
      { date: '2026-01-02T00:00:00Z', commit: 'b', machine, rows: [newer!] },
      { date: '2026-01-01T00:00:00Z', commit: 'a', machine, rows: [older!, other] },
    ],
    ['another', 'trial', 'never run'],
  );
  expect(merged).toMatchObject({ date: '2026-01-02T00:00:00Z', commit: 'a, b', machine: 'm' });
  expect(merged.rows).toEqual([other, newer]);
});
