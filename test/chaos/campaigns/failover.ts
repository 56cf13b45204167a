/** The primary Postgres dies, and its synchronous standby takes over: nothing acknowledged may be lost. */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';
import { Cluster } from '../cluster.ts';

export const failover = defineCampaign({
  name: 'failover',
  faults: 'kill -9 of the primary Postgres, promotion of its synchronous standby',
  sizes: {
    ci: { failovers: 1, perS: 15, upMs: 4_000 },
    release: { failovers: 3, perS: 20, upMs: 20_000 },
  },
  async run(open, size, say) {
    const cluster = await Cluster.start();
    const stage = await open({
      bus: 'kafka',
      perS: size.perS,
      database: { url: cluster.url, stop: () => cluster.stop() },
    });
    let longest_ms = 0;
    for (let n = 1; n <= size.failovers; n++) {
      await pause(size.upMs);
      const away_ms = await cluster.failOver();
      longest_ms = Math.max(longest_ms, away_ms);
      say(`${n}/${size.failovers}: failed over in ${away_ms} ms`);
      // Without a new standby the next failover would have nothing to go to.
      if (n < size.failovers) await cluster.addStandby();
    }
    await pause(2_000);
    const settled = await stage.settle({ say });
    return { faults: size.failovers, settled, notes: { longest_failover_ms: longest_ms } };
  },
});
