/**
 * Processes are stopped (SIGSTOP) for three times what it takes to be replaced, and then go on where they
 * were: with batches in hand, leases that are long over, and answers that nobody waits for.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign, type Campaign } from '../campaign.ts';
import type { Evidence } from '../checker/evidence.ts';
import type { StageOptions } from '../stage.ts';

const SHARD_LEASE_MS = 2_000;
/** What decides when a silent member is replaced: the bus's lease, or Kafka's session timeout. */
const REPLACED_AFTER_MS = { postgres: 5_000, kafka: 10_000 } as const;

function zombies(name: string, bus: StageOptions['bus']): Campaign {
  return defineCampaign({
    name,
    faults: `SIGSTOP of engines and workers for 3 x ${REPLACED_AFTER_MS[bus] / 1_000} s (what replaces them on ${bus}), then SIGCONT`,
    sizes: {
      // On Kafka it takes half a minute to make one: CI makes them on Postgres.
      ci: bus === 'kafka' ? null : { zombies: 3, perS: 15 },
      release: { zombies: 50, perS: 20 },
    },
    async run(open, size, say) {
      const env = { SAGAX_SHARD_LEASE_MS: String(SHARD_LEASE_MS) };
      const stage = await open({ bus, perS: size.perS, engines: 3, workers: 3, env });
      const { crew, random } = stage;
      let faults = 0;
      while (faults < size.zombies) {
        await pause(random.between(1_000, 3_000));
        // Two of three at most, so that the load goes on and overtakes them.
        const engines = crew.of('engine').slice(faults % 2, (faults % 2) + 2);
        const stopped = [...engines, random.pick(crew.of('worker'))];
        for (const one of stopped) {
          crew.stop(one);
          await pause(random.between(0, 300));
        }
        await pause(3 * REPLACED_AFTER_MS[bus]);
        for (const one of stopped) crew.continue(one);
        faults += stopped.length;
        say(`${faults}/${size.zombies} zombies`);
      }
      const settled = await stage.settle({ say });
      const taken = takeovers(settled.evidence);
      if (taken === 0) throw new Error('No zombie was replaced while it was stopped.');
      const stale = settled.violations.filter(({ what }) => what.startsWith('stale write'));
      return { faults, settled, notes: { takeovers: taken, stale_writes: stale.length } };
    },
  });
}

/** Epochs beyond the first of each shard. */
function takeovers({ epochs }: Evidence): number {
  return epochs.length - new Set(epochs.map(({ shard }) => shard)).size;
}

export const zombiesOnPostgres = zombies('zombies', 'postgres');
export const zombiesOnKafka = zombies('zombies-kafka', 'kafka');
