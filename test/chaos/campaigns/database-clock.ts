/**
 * The database's clock leaps ahead: leases run out at once, deadlines and timers fall due, node ids are taken anew.
 * It needs libfaketime under the server (`apt-get install faketime`), and so is no part of CI.
 */
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';
import { PostgresBox } from '../servers.ts';

const LIBRARIES = [
  '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1',
  '/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1',
  '/usr/lib64/faketime/libfaketimeMT.so.1',
];

interface Size {
  jumps: number;
  perS: number;
  pauseMs: [number, number];
}

export const databaseClock = defineCampaign<Size>({
  name: 'database-clock',
  faults: "leaps of the database's clock, by 1-40 s ahead",
  sizes: { ci: null, release: { jumps: 20, perS: 20, pauseMs: [2_000, 6_000] } },
  async run(open, size, say) {
    const library = LIBRARIES.find((path) => existsSync(path));
    if (library === undefined)
      throw new Error('There is no libfaketime here: apt-get install faketime.');
    const folder = await mkdtemp(join(tmpdir(), 'sagax-chaos-faketime-'));
    // The server runs as another user when we are root.
    await chmod(folder, 0o755);
    const file = join(folder, 'offset');
    await writeFile(file, '+0\n');
    try {
      const box = await PostgresBox.start(
        {},
        {
          LD_PRELOAD: library,
          FAKETIME_TIMESTAMP_FILE: file,
          FAKETIME_NO_CACHE: '1',
          FAKETIME_DONT_FAKE_MONOTONIC: '1',
        },
      );
      const stage = await open({
        bus: 'kafka',
        perS: size.perS,
        database: { url: box.url, stop: () => box.stop() },
      });
      const { random } = stage;
      let offset_s = 0;
      for (let n = 1; n <= size.jumps; n++) {
        await pause(random.between(...size.pauseMs));
        offset_s += random.between(1, 40);
        await writeFile(`${file}.new`, `+${offset_s}\n`);
        await rename(`${file}.new`, file);
        say(`${n}/${size.jumps}: the database is ${offset_s} s ahead`);
      }
      const settled = await stage.settle({ say });
      const last = Math.max(...settled.evidence.events.map((one) => one.witnessedAtMs));
      const lead_s = Math.round((last - Date.now()) / 1_000);
      // The last event is a little old by now; without the leaps it would be in the past.
      if (lead_s < offset_s / 2) throw new Error(`The clock did not follow: ${lead_s} s ahead.`);
      return { faults: size.jumps, settled, notes: { lead_s: offset_s } };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
});
