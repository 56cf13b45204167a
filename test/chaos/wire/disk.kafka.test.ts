/** Kafka's full disk, at the size for CI: a broker of its own, whose log is on a small disk. */
import { expect, test } from 'vitest';
import { kafkaBrokers } from '../../support/kafka.ts';
import { missingForKafka } from '../../support/kafka-server.ts';
import { runCampaign } from '../campaign.ts';
import { kafkaDiskFull } from './disk-full.ts';
import { mayMount } from './small-disk.ts';

const isRunnable = kafkaBrokers() !== null && missingForKafka() === null && (await mayMount());
if (!isRunnable) console.warn('kafka-disk-full NOT RUN: no Kafka, or no right to mount, here.');

test.skipIf(!isRunnable)('a full disk of Kafka', { timeout: 300_000 }, async () => {
  const row = await runCampaign(kafkaDiskFull, 'ci', 1, () => undefined);
  const { error, violations, unexpected_ends } = row;
  expect({ error, violations, unexpected_ends }).toEqual({
    error: null,
    violations: [],
    unexpected_ends: [],
  });
  expect(row.faults).toBeGreaterThan(0);
});
