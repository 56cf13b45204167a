/** The campaigns on the wire to Postgres and on full disks, in the order in which `npm run chaos` runs them. */
import type { Campaign } from '../campaign.ts';
import { kafkaDiskFull, postgresDiskFull } from './disk-full.ts';
import { halfOpen } from './half-open.ts';
import { replyLost } from './reply-lost.ts';
import { slowPostgres } from './slow-postgres.ts';
import { sqlstates } from './sqlstates.ts';

export const wireCampaigns: readonly Campaign[] = [
  replyLost,
  sqlstates,
  halfOpen,
  slowPostgres,
  postgresDiskFull,
  kafkaDiskFull,
];
