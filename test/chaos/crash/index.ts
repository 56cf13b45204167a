/** The campaigns of crash points, in the order in which they are run. */
import type { Campaign } from '../campaign.ts';
import { defineCrashes } from './campaign.ts';

const everywhere = {
  where: 'in engine, relay, timers and workers',
  victims: ['engine', 'worker'],
} as const;

const onKafka = defineCrashes({
  name: 'crash-points',
  ...everywhere,
  where: `${everywhere.where} (bus: kafka)`,
  bus: 'kafka',
  ci: {},
  release: {},
});

/** A dead member's partitions are free when its lease has ended, so each death takes longer here. */
const onPostgres = defineCrashes({
  name: 'crash-points-postgres-bus',
  ...everywhere,
  where: `${everywhere.where} (bus: postgres)`,
  bus: 'postgres',
  ci: { sample: 4, limitMs: 25_000 },
  release: { shapes: ['completes'], later: false, limitMs: 25_000 },
});

/** Engine, shards and timers are as with one database; what is new is what stands before the databases. */
const onTwoDatabases = defineCrashes({
  name: 'crash-points-two-databases',
  where: 'of an engine whose log is spread over two databases',
  bus: 'kafka',
  victims: ['engine'],
  aim: /^engine\/postgres\/(spread|log-part|membership)/,
  stage: { logDatabases: 2 },
  ci: null,
  release: {},
});

export const crashCampaigns: readonly Campaign[] = [onKafka, onPostgres, onTwoDatabases];
