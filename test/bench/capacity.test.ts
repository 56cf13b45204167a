/** The capacity model's arithmetic: linear in the rate, bounded below, and split over databases by CPU and by WAL. */
import { expect, test } from 'vitest';
import { needsOf, type Costs } from '../../bench/capacity.ts';

const costs: Costs = {
  engine_ms: 1.2,
  worker_ms: 0.6,
  postgres_ms: 1.92,
  kafka_ms: 0.96,
  wal_bytes: 9_000,
  log_bytes: 3_500,
  participant_bytes: 1_000,
  bus_bytes: 4_000,
};

test('a small rate needs two of what must not stand alone, and no more', () => {
  expect(needsOf(costs, 10)).toMatchObject({
    engines: 2,
    workers: 2,
    shards: 16,
    databases: 1,
    kafkaBrokers: 3,
    messages_per_s: 70,
  });
});

test('at a large rate all grows with it', () => {
  const needs = needsOf(costs, 100_000);
  // 100,000 × 1.2 ms are 120 cores, of which 60 % are used.
  expect(needs).toMatchObject({ engines: 200, workers: 100, shards: 1_024, databases: 20 });
  expect(needs.kafkaBrokers).toBe(20);
  expect(needs.wal_mb_per_s).toBe(900);
  expect(needs.log_gb_per_day).toBeCloseTo(30_240, 6);
});

test('WAL alone can ask for more databases than CPU does; the Postgres bus needs no broker', () => {
  expect(needsOf({ ...costs, postgres_ms: 0.1 }, 100_000).databases).toBe(15);
  expect(needsOf({ ...costs, kafka_ms: 0 }, 1_000).kafkaBrokers).toBe(0);
});
