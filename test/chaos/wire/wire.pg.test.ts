/**
 * The campaigns on the wire to Postgres and on its full disk, at the size for CI. They wait for time limits most of
 * their time, so they run side by side.
 */
import { describe, expect, test } from 'vitest';
import { runCampaign, type Campaign } from '../campaign.ts';
import { postgresDiskFull } from './disk-full.ts';
import { halfOpen } from './half-open.ts';
import { replyLost } from './reply-lost.ts';
import { slowPostgres } from './slow-postgres.ts';
import { mayMount } from './small-disk.ts';
import { sqlstates } from './sqlstates.ts';

const LIMIT_MS = 300_000;
const mountable = await mayMount();
if (!mountable) console.warn('postgres-disk-full NOT RUN: no right to mount a small disk here.');

describe('faults of the wire to Postgres', () => {
  const runnable: Campaign[] = [replyLost, halfOpen, slowPostgres, sqlstates];
  if (mountable) runnable.push(postgresDiskFull);

  test.concurrent.each(runnable)('$name', { timeout: LIMIT_MS }, async (campaign: Campaign) => {
    const said: string[] = [];
    const row = await runCampaign(campaign, 'ci', 1, (text) => void said.push(text));
    const { error, violations, unexpected_ends } = row;
    expect({ error, violations, unexpected_ends }, said.join('\n')).toEqual({
      error: null,
      violations: [],
      unexpected_ends: [],
    });
    expect(row.faults).toBeGreaterThan(0);
  });
});
