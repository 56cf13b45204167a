/** Campaigns of message faults. */
import type { Campaign } from '../campaign.ts';
import { kafkaDown } from './kafka-down.ts';
import { poison } from './poison.ts';
import { replies } from './replies.ts';

export const messageCampaigns: readonly Campaign[] = [replies, poison, kafkaDown];
