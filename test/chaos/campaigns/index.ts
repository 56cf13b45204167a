/** All campaigns, in the order in which `npm run chaos` runs them. */
import type { Campaign } from '../campaign.ts';
import { kills } from './kills.ts';

export const campaigns: readonly Campaign[] = [kills];
