/** A storm of rebalances: engines and workers join, leave in order and die all the time. */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';
import type { Member } from '../crew.ts';

/** Of each role. */
const MOST = 4;

export const storm = defineCampaign({
  name: 'storm',
  faults: 'engines and workers join, leave in order and die, one every 0.3-1.5 s',
  sizes: { ci: { stormMs: 12_000, perS: 15 }, release: { stormMs: 120_000, perS: 20 } },
  async run(open, size, say) {
    const stage = await open({ bus: 'kafka', perS: size.perS });
    const { crew, random } = stage;
    const under = new Set<Promise<unknown>>();
    const track = (work: Promise<unknown>): void => {
      const tracked = work.finally(() => under.delete(tracked));
      under.add(tracked);
    };
    const leaving = new Set<Member>();
    let faults = 0;
    const endAt = performance.now() + size.stormMs;
    while (performance.now() < endAt) {
      await pause(random.between(300, 1_500));
      const role = random.chance(0.6) ? 'engine' : 'worker';
      const present = crew.of(role).filter((one) => !leaving.has(one));
      if (present.length <= 1 || (present.length < MOST && random.chance(0.5))) {
        if (crew.of(role).length >= MOST) continue;
        track(crew.hire(role));
      } else {
        const member = random.pick(present);
        leaving.add(member);
        track(crew.dismiss(member, random.chance(0.5) ? 'SIGTERM' : 'SIGKILL'));
      }
      faults++;
    }
    await Promise.all(under);
    say(`${faults} joined or left`);
    return { faults, settled: await stage.settle({ say }) };
  },
});
