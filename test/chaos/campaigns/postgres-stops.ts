/** Postgres is stopped at once, stays away for seconds, and comes back through its crash recovery. */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign, type Campaign } from '../campaign.ts';
import type { StageOptions } from '../stage.ts';

const DOWN_MS = [2_000, 10_000] as const;

function postgresStops(name: string, bus: StageOptions['bus']): Campaign {
  return defineCampaign({
    name,
    faults: `immediate stop of Postgres (half by SIGQUIT, half by kill -9), 2-10 s away; bus on ${bus}`,
    sizes: {
      // CI stops it under the one bus only.
      ci:
        bus === 'postgres'
          ? null
          : { stops: 2, perS: 15, upMs: [2_000, 4_000], downMs: [2_000, 3_000] },
      release: { stops: 10, perS: 20, upMs: [3_000, 8_000], downMs: DOWN_MS },
    },
    async run(open, size, say) {
      const stage = await open({ bus, perS: size.perS });
      const { postgres, random } = stage;
      if (postgres === null) throw new Error('The stage has no Postgres of its own.');
      for (let n = 1; n <= size.stops; n++) {
        await pause(random.between(size.upMs[0] ?? 0, size.upMs[1] ?? 0));
        await postgres.crash(n % 2 === 0 ? 'SIGKILL' : 'SIGQUIT');
        const downMs = random.between(size.downMs[0] ?? 0, size.downMs[1] ?? 0);
        say(`${n}/${size.stops}: Postgres stopped for ${downMs} ms`);
        await pause(downMs);
        await postgres.restart();
      }
      return { faults: size.stops, settled: await stage.settle({ say }) };
    },
  });
}

export const postgresStopsOnKafka = postgresStops('postgres-stops', 'kafka');
export const postgresStopsOnPostgres = postgresStops('postgres-stops-all', 'postgres');
