/**
 * A Postgres that is slow: every piece of every answer and question comes late, by more and more.
 *
 * Guards that slowness is only that: leases are lost and taken anew, requests are refused and sent again, and
 * nothing is done twice or dropped.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';
import { mend, openWired, until } from './wires.ts';

/** Of a statement's way there and back each; the lease of the runs is 5 s, renewed each third of it. */
const DELAYS_MS: readonly number[] = [10, 100, 400, 1_500];
/** Nothing passes for longer than the lease, then all of it at once. */
const STANDSTILL_MS = 7_000;

export const slowPostgres = defineCampaign({
  name: 'slow-postgres',
  faults: 'all bytes to and from Postgres are late, by 10 ms to 1.5 s, and by longer than a lease',
  sizes: {
    ci: { rounds: 1, phaseMs: 1_500, perS: 8 },
    release: { rounds: 3, phaseMs: 15_000, perS: 10 },
  },
  run: async (open, size, say) => {
    const { stage, wires } = await openWired(open, {
      bus: 'postgres',
      perS: size.perS,
      env: { SAGAX_SHARD_LEASE_MS: '5000' },
    });
    let late = 0;
    const slow = (delay_ms: number): void => {
      for (const { proxy } of wires) {
        proxy.delayMs = () => {
          late += 1;
          // Jitter, so that connections overtake one another.
          return delay_ms * (0.5 + stage.random.next());
        };
      }
    };
    for (let round = 0; round < size.rounds; round++) {
      for (const delay_ms of DELAYS_MS) {
        slow(delay_ms);
        await pause(size.phaseMs);
        say(`${delay_ms} ms each way: ${late} pieces late so far`);
      }
      slow(STANDSTILL_MS);
      await pause(STANDSTILL_MS);
      mend(wires);
      const before = stage.load.sagas;
      await until('starts are taken again', 60_000, () => stage.load.sagas > before + 5);
    }
    const settled = await stage.settle({ say });
    return { faults: late, settled, notes: { slowest_delay_ms: STANDSTILL_MS } };
  },
});
