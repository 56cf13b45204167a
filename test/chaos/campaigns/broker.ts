/** The broker is killed with kill -9 and comes back on its data. */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';

export const broker = defineCampaign({
  name: 'broker',
  faults: 'kill -9 of the Kafka broker, 1-8 s away',
  sizes: {
    ci: { kills: 1, perS: 15, upMs: [3_000, 5_000], downMs: [1_000, 3_000] },
    release: { kills: 5, perS: 20, upMs: [10_000, 25_000], downMs: [1_000, 8_000] },
  },
  async run(open, size, say) {
    const stage = await open({ bus: 'kafka', perS: size.perS });
    const { kafka, random } = stage;
    if (kafka === null) throw new Error('The stage has no broker of its own.');
    for (let n = 1; n <= size.kills; n++) {
      await pause(random.between(size.upMs[0] ?? 0, size.upMs[1] ?? 0));
      await kafka.kill('SIGKILL');
      const downMs = random.between(size.downMs[0] ?? 0, size.downMs[1] ?? 0);
      say(`${n}/${size.kills}: broker killed, away for ${downMs} ms`);
      await pause(downMs);
      await kafka.restart();
    }
    return { faults: size.kills, settled: await stage.settle({ say }) };
  },
});
