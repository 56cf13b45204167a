/** Wall clocks of processes jump, ahead and back, by seconds to hours, each process's by itself. */
import { existsSync } from 'node:fs';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';
import type { Role } from '../crew.ts';

const PRELOAD = new URL('../clock-preload.ts', import.meta.url).href;
const MOST_MS = 6 * 3_600_000;

export const clocks = defineCampaign({
  name: 'clocks',
  faults: "jumps of a process's wall clock by 1 s to 6 h, as many ahead as back",
  sizes: {
    ci: { each: 3, perS: 15, pauseMs: [300, 1_000] },
    release: { each: 20, perS: 20, pauseMs: [500, 3_000] },
  },
  async run(open, size, say) {
    const folder = await mkdtemp(join(tmpdir(), 'sagax-chaos-clocks-'));
    try {
      const fileOf = (role: Role, n: number): string => join(folder, `${role}-${n}`);
      // A file must be there before its process looks.
      for (const role of ['api', 'engine', 'worker'] as const)
        for (let n = 0; n < 2; n++) await writeFile(fileOf(role, n), '0');
      const stage = await open({
        bus: 'kafka',
        perS: size.perS,
        envOf: (role, n) => ({
          NODE_OPTIONS: `--import=${PRELOAD}`,
          CHAOS_CLOCK_FILE: fileOf(role, n),
        }),
      });
      const { crew, random } = stage;
      const shifts = new Map<string, number>();
      const [from = 0, to = 0] = size.pauseMs;
      for (let n = 0; n < 2 * size.each; n++) {
        await pause(random.between(from, to));
        const { role, n: index } = random.pick(crew.members);
        const file = fileOf(role, index);
        if (!existsSync(file)) throw new Error(`${role} ${index} has no clock file.`);
        // Small ones as often as large ones.
        const jump_ms = Math.round(1_000 * (MOST_MS / 1_000) ** random.next());
        const shift_ms = (shifts.get(file) ?? 0) + (n % 2 === 0 ? jump_ms : -jump_ms);
        shifts.set(file, shift_ms);
        await writeFile(`${file}.new`, String(shift_ms));
        await rename(`${file}.new`, file);
        say(`the clock of ${role} ${index} is now off by ${shift_ms} ms`);
      }
      return { faults: 2 * size.each, settled: await stage.settle({ say }) };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
});
