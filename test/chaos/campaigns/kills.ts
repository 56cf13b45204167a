/** Engines and workers are ended with kill -9, at random, one after another, under load. */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';

export const kills = defineCampaign({
  name: 'kills',
  faults: 'kill -9 of a random engine, worker or API process',
  sizes: {
    ci: { kills: 6, perS: 15, pauseMs: [500, 2_500] },
    release: { kills: 100, perS: 20, pauseMs: [500, 4_000] },
  },
  async run(open, size, say) {
    const stage = await open({ bus: 'kafka', perS: size.perS });
    const { crew, random } = stage;
    const [from = 0, to = 0] = size.pauseMs;
    for (let n = 1; n <= size.kills; n++) {
      await pause(random.between(from, to));
      // Mostly those that the promise is about; the API now and then, for what it had acknowledged.
      const role = random.chance(0.1) ? 'api' : random.chance(0.55) ? 'engine' : 'worker';
      const victim = random.pick(crew.of(role));
      await crew.kill(victim);
      say(`${n}/${size.kills}: killed ${role} ${victim.n}`);
    }
    return { faults: size.kills, settled: await stage.settle({ say }) };
  },
});
