/**
 * Full disks, of Postgres and of Kafka, under load: filled to the last byte, freed later.
 *
 * Guards that what was acknowledged before stays, that nothing is acknowledged that could not be kept (I4), and
 * that all goes on without a person once there is space and the server is up (I12). The server itself may end: Postgres
 * panics when it can't write its log, and a Kafka broker with no log folder left halts. Both are then started
 * again, as their supervisor would.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '../../../engine/postgres/index.ts';
import { defineCampaign, type OpenStage, type Outcome } from '../campaign.ts';
import { freePort } from '../servers.ts';
import { withPool, type Stage } from '../stage.ts';
import { SmallDisk } from './small-disk.ts';
import { until } from './wires.ts';

/** A new cluster takes about 60 MB, its write-ahead log up to 64 more. */
const POSTGRES_DISK_MB = 320;
const KAFKA_DISK_MB = 160;
/** Sagas that must be acknowledged between two fills, so that each meets real load. */
const SAGAS_BETWEEN = 20;
const RECOVERY_LIMIT_MS = 120_000;

interface Size {
  fills: number;
  fullMs: number;
  perS: number;
}

const SIZES = {
  ci: { fills: 1, fullMs: 6_000, perS: 15 },
  release: { fills: 5, fullMs: 20_000, perS: 20 },
} as const;

export const postgresDiskFull = defineCampaign<Size>({
  name: 'postgres-disk-full',
  faults: 'the disk of Postgres is full to the last byte (a tmpfs with a ballast file), then freed',
  sizes: SIZES,
  run: async (open, size, say) => {
    const disk = await SmallDisk.mount(POSTGRES_DISK_MB);
    const server = await SmallPostgres.start(disk);
    const database = {
      url: server.url,
      stop: async () => {
        await server.stop();
        await disk.unmount();
      },
    };
    // From here on the stage ends both, also when it can't be opened.
    const stage = await open({ bus: 'postgres', perS: size.perS, database });
    let restarts = 0;
    return filled(stage, disk, size, say, {
      refusals: () => server.refusals(),
      revive: async () => {
        if (await server.revive()) restarts += 1;
      },
      restarts: () => restarts,
    });
  },
});

export const kafkaDiskFull = defineCampaign<Size>({
  name: 'kafka-disk-full',
  faults:
    "the disk of Kafka's log is full to the last byte (a tmpfs with a ballast file), then freed",
  sizes: SIZES,
  run: async (open, size, say) => {
    const disk = await SmallDisk.mount(KAFKA_DISK_MB);
    try {
      const stage = await openOnDisk(open, disk, size);
      const { kafka } = stage;
      if (kafka === null) throw new Error('The stage has no Kafka.');
      let restarts = 0;
      return await filled(stage, disk, size, say, {
        // Its only log folder has failed, so the broker halts.
        refusals: () => Promise.resolve(isAlive(kafka.pid ?? -1) ? restarts : restarts + 1),
        revive: async () => {
          await kafka.restart();
          restarts += 1;
        },
        restarts: () => restarts,
      });
    } finally {
      await disk.unmount();
    }
  },
});

function openOnDisk(open: OpenStage, disk: SmallDisk, size: Size): Promise<Stage> {
  return open({
    bus: 'kafka',
    perS: size.perS,
    kafkaProperties: {
      'log.dirs': `${disk.folder}/log`,
      // Indexes are mapped at full size, 10 MB each by default.
      'log.index.size.max.bytes': String(64 * 1024),
      'log.segment.bytes': String(4 * 1024 * 1024),
      'metadata.log.segment.bytes': String(8 * 1024 * 1024),
    },
  });
}

/** The server on the disk. */
interface Victim {
  /** How often it has met the full disk by now. */
  refusals: () => Promise<number>;
  /** Makes it serve again, once there is space. */
  revive: () => Promise<void>;
  restarts: () => number;
}

/** Fills and frees the disk again and again under load. */
async function filled(
  stage: Stage,
  disk: SmallDisk,
  size: Size,
  say: (text: string) => void,
  victim: Victim,
): Promise<Outcome> {
  let accepted_while_full = 0;
  let ballast_bytes = 0;
  for (let fill = 1; fill <= size.fills; fill++) {
    await moreSagas(stage, SAGAS_BETWEEN);
    const before = stage.load.accepted.length;
    const metBefore = await victim.refusals();
    const fullUntil = performance.now() + size.fullMs;
    let taken = 0;
    await until('the server meets the full disk', RECOVERY_LIMIT_MS, async () => {
      // What it gives up meanwhile (an old segment of its log) is taken too: full stays full.
      taken += disk.fill();
      return performance.now() > fullUntil && (await victim.refusals()) > metBefore;
    });
    ballast_bytes = Math.max(ballast_bytes, taken);
    accepted_while_full += stage.load.accepted.length - before;
    const met = (await victim.refusals()) - metBefore;
    disk.free();
    await victim.revive();
    await goneOn(stage);
    say(`fill ${fill}: ${taken} bytes taken, met ${met} times, recovered`);
  }
  const refusals = await victim.refusals();
  const settled = await stage.settle({ say });
  const notes = { refusals, restarts: victim.restarts(), accepted_while_full, ballast_bytes };
  return { faults: size.fills, settled, notes };
}

/** Recovered is what takes starts and goes on with them: until then another fill would meet a system at rest. */
async function goneOn(stage: Stage): Promise<void> {
  const before = stage.load.accepted.length;
  await moreSagas(stage, 1);
  const sagaId = stage.load.accepted[before]?.sagaId;
  await withPool(stage.servers.databaseUrl, (pool) =>
    until('a saga that was taken goes on', RECOVERY_LIMIT_MS, async () => {
      const { rowCount } = await pool.query('SELECT FROM sagax.sagas WHERE saga_id = $1', [sagaId]);
      return rowCount === 1;
    }),
  );
}

async function moreSagas(stage: Stage, count: number): Promise<void> {
  const wanted = stage.load.sagas + count;
  await until('starts are taken', RECOVERY_LIMIT_MS, () => stage.load.sagas >= wanted);
}

/** A Postgres with its data on a small disk; one that has ended is started again. */
class SmallPostgres {
  readonly #disk: SmallDisk;
  readonly #port: number;
  #server: EmbeddedPostgres | null = null;

  constructor(disk: SmallDisk, port: number) {
    this.#disk = disk;
    this.#port = port;
  }

  static async start(disk: SmallDisk): Promise<SmallPostgres> {
    try {
      const server = new SmallPostgres(disk, await freePort());
      await server.#start();
      return server;
    } catch (error) {
      await disk.unmount();
      throw error;
    }
  }

  get url(): string {
    return this.#server?.url ?? '';
  }

  /** "No space left on device" in its log. */
  async refusals(): Promise<number> {
    const log = await readFile(join(this.#disk.folder, 'postgres.log'), 'utf8');
    return log.match(/No space left on device/g)?.length ?? 0;
  }

  /** @returns whether it had ended, and was started again */
  async revive(): Promise<boolean> {
    if (this.#server !== null && isAlive(this.#server.pid)) return false;
    // Gives the folder back.
    await this.#server?.stop();
    await this.#start();
    return true;
  }

  async stop(): Promise<void> {
    await this.#server?.stop();
  }

  async #start(): Promise<void> {
    this.#server = await startEmbeddedPostgres({
      folder: this.#disk.folder,
      port: this.#port,
      settings: {
        max_connections: '100',
        shared_buffers: '32MB',
        min_wal_size: '32MB',
        max_wal_size: '64MB',
      },
    });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
