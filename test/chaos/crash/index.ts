/** The campaigns of crash points, in the order in which they are run. */
import { makeKey } from '../../../api/access/keys.ts';
import type { Campaign } from '../campaign.ts';
import { Caller, isOurLetter } from './caller.ts';
import { defineCrashes } from './campaign.ts';
import { firstStart } from './first-start.ts';
import { Outages } from './outages.ts';

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
  aim: /^engine\/postgres\/(spread-log|membership)/,
  stage: { logDatabases: 2 },
  beside: [(stage) => Outages.begin(stage)],
  ci: null,
  release: {},
});

const { key: adminKey } = makeKey();

/** Over two databases, so that the ways of a read through several are passed as well. */
const ofApi = defineCrashes({
  name: 'crash-points-api',
  where: 'of the engine that the API process passes',
  bus: 'kafka',
  victims: ['api'],
  // Its set-up is that of an engine, which has a campaign of its own.
  aim: /^engine\/(runtime\/snowflake|kafka\/(bus|publisher)|postgres\/(access|dead-letters|inspect|node-ids|start-keys|spread(-read)?|log-part)\.)/,
  stage: {
    logDatabases: 2,
    authorization: `Bearer ${adminKey}`,
    // A node id is renewed by a third of its lease: soon enough to die at it.
    env: { SAGAX_AUTH: 'on', SAGAX_ADMIN_KEY: adminKey, SAGAX_NODE_LEASE_MS: '3000' },
  },
  beside: [(stage) => Caller.begin(stage), (stage) => Outages.begin(stage)],
  check: { allowDeadLetter: isOurLetter },
  ci: { sample: 6 },
  release: { shapes: ['waits'] },
});

export const crashCampaigns: readonly Campaign[] = [
  onKafka,
  onPostgres,
  onTwoDatabases,
  ofApi,
  firstStart,
];
