/** Postgres's full disk, at the size for CI: a server of its own, whose data is on a small disk. */
import { expect, test } from 'vitest';
import { runCampaign } from '../campaign.ts';
import { postgresDiskFull } from './disk-full.ts';
import { mayMount } from './small-disk.ts';

const isRunnable = await mayMount();
if (!isRunnable) console.warn('postgres-disk-full NOT RUN: no right to mount a small disk here.');

test.skipIf(!isRunnable)('a full disk of Postgres', { timeout: 300_000 }, async () => {
  const said: string[] = [];
  const row = await runCampaign(postgresDiskFull, 'ci', 1, (text) => void said.push(text));
  const { error, violations, unexpected_ends } = row;
  expect({ error, violations, unexpected_ends }, said.join('\n')).toEqual({
    error: null,
    violations: [],
    unexpected_ends: [],
  });
  expect(row.faults).toBeGreaterThan(0);
});
