/** The campaigns of message faults at their small size, each on servers of its own. */
import { describe, expect, it } from 'vitest';
import { missingForKafka } from '../../support/kafka-server.ts';
import { isClean, runCampaign } from '../campaign.ts';
import { messageCampaigns } from './index.ts';

describe.skipIf(missingForKafka() !== null)('message faults', () => {
  it.each(messageCampaigns)('$name', { timeout: 300_000 }, async (campaign) => {
    const row = await runCampaign(campaign, 'ci', 1, () => undefined);
    expect({ ...row, violations: row.violations.slice(0, 20) }).toMatchObject({
      error: null,
      violations: [],
      unexpected_ends: [],
    });
    expect(isClean(row)).toBe(true);
    expect(row.faults).toBeGreaterThan(0);
  });
});
