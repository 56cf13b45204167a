/** All campaigns, in the order in which `npm run chaos` runs them. */
import type { Campaign } from '../campaign.ts';
import { broker } from './broker.ts';
import { clocks } from './clocks.ts';
import { databaseClock } from './database-clock.ts';
import { failover } from './failover.ts';
import { crashCampaigns } from '../crash/index.ts';
import { messageCampaigns } from '../messages/index.ts';
import { kills } from './kills.ts';
import { wireCampaigns } from '../wire/index.ts';
import { postgresStopsOnKafka, postgresStopsOnPostgres } from './postgres-stops.ts';
import { storm } from './storm.ts';
import { zombiesOnKafka, zombiesOnPostgres } from './zombies.ts';

export const campaigns: readonly Campaign[] = [
  kills,
  postgresStopsOnKafka,
  postgresStopsOnPostgres,
  failover,
  broker,
  storm,
  zombiesOnPostgres,
  zombiesOnKafka,
  clocks,
  databaseClock,
  ...crashCampaigns,
  ...wireCampaigns,
  ...messageCampaigns,
];
