/**
 * Bells between the processes of a Postgres bus: a datagram that says "something has been committed for you".
 *
 * Guards that a bell is a hint and nothing more: who is not told (a lost datagram, a closed network, an older process)
 * finds the messages by looking; who is told too often, or by a stranger without the key, does no more than look. It
 * listens only at the address by which this process reaches the database, and keeps no process alive.
 */
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { isIP, isIPv6 } from 'node:net';
import { SagaxError } from '../core/errors.ts';
import { Patience } from '../core/patience.ts';
import type { BusLog } from './bus-log.ts';
import type { Database } from './pool.ts';

/** How old the knowledge of who reads a partition may be, while there are messages for it. */
const FRESH_MS = 1_000;
/** How soon it is asked again when there is a partition that was never asked for. */
const NEW_MS = 50;
/** Of a process without an address in the network: it speaks to the database through a socket of this machine. */
const LOOPBACK = '127.0.0.1';

interface Address {
  host: string;
  port: number;
  key: string;
}

/** Of another process. */
interface Bell extends Address {
  /** Whether it has so much to read that it looks soon by itself. */
  load: Patience;
}

interface Listening {
  socket: Socket;
  host: string;
}

export class BusBells {
  readonly #database: Database;
  readonly #log: BusLog;
  readonly #rung: () => void;
  readonly #key = randomBytes(16).toString('hex');
  #opening: Promise<Listening | null> | null = null;
  #listening: Listening | null = null;
  #closed = false;
  /** Who reads a partition, by its id. */
  readonly #readers = new Map<number, readonly Bell[]>();
  /** Partitions with messages since their readers were last asked for. */
  readonly #news = new Set<number>();
  #askedAt = Number.NEGATIVE_INFINITY;
  #asking = false;
  #later: NodeJS.Timeout | null = null;

  /** @param rung somebody has rung */
  constructor(database: Database, log: BusLog, rung: () => void) {
    this.#database = database;
    this.#log = log;
    this.#rung = rung;
  }

  /** What others need to ring: `host port key`. Null when nobody could reach it. */
  async address(): Promise<string | null> {
    const listening = await this.#open();
    if (listening === null) return null;
    return textOf({
      host: listening.host,
      port: listening.socket.address().port,
      key: this.#key,
    });
  }

  /** Tells who reads these partitions; one entry a message, and only after its commit. */
  ring(partitionIds: readonly number[]): void {
    for (const id of partitionIds) this.#news.add(id);
    const isKnown = partitionIds.every((id) => this.#readers.has(id));
    const due_ms = this.#askedAt + (isKnown ? FRESH_MS : NEW_MS) - performance.now();
    if (due_ms <= 0) void this.#askForReaders();
    else if (!isKnown) this.#later ??= setTimeout(() => void this.#askForReaders(), due_ms).unref();
    this.#tell(partitionIds);
  }

  #tell(partitionIds: readonly number[]): void {
    if (this.#listening === null) return;
    const counts = new Map<Bell, number>();
    for (const id of partitionIds) {
      for (const bell of this.#readers.get(id) ?? []) counts.set(bell, (counts.get(bell) ?? 0) + 1);
    }
    const now = performance.now();
    for (const [bell, messages] of counts) {
      const { host, port, key, load } = bell;
      if (!load.pays(now)) this.#listening.socket.send(key, port, host, () => undefined);
      load.found(messages, now);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#forgetLater();
    await this.#opening;
    this.#listening?.socket.close();
    this.#listening = null;
  }

  #open(): Promise<Listening | null> {
    if (this.#closed) return Promise.resolve(null);
    this.#opening ??= this.#listen();
    return this.#opening;
  }

  async #listen(): Promise<Listening | null> {
    try {
      const [row] = await this.#database.read<{ host: string | null }>({
        text: 'SELECT host(inet_client_addr()) AS host',
      });
      this.#listening = await this.#bind(row?.host ?? LOOPBACK);
    } catch (err) {
      this.#log.debug({ err }, 'no bell: messages of other processes are looked for');
      // The database may answer the next time; an address that is not of this machine will not become so.
      if (err instanceof SagaxError) this.#opening = null;
    }
    return this.#listening;
  }

  async #bind(host: string): Promise<Listening> {
    const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4').unref();
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind({ address: host, port: 0 }, resolve);
    }).catch((error: unknown) => {
      socket.close();
      throw error;
    });
    socket.on('message', (said) => {
      if (said.length === this.#key.length && said.toString('latin1') === this.#key) this.#rung();
    });
    // Not reached, no buffer, no route: they look by themselves.
    socket.on('error', (err) => this.#log.debug({ err }, 'a bell could not be rung'));
    return { socket, host };
  }

  #forgetLater(): void {
    clearTimeout(this.#later ?? undefined);
    this.#later = null;
  }

  /** One question for all partitions that have had messages since the last one. */
  async #askForReaders(): Promise<void> {
    this.#forgetLater();
    if (this.#asking || this.#closed) return;
    this.#asking = true;
    this.#askedAt = performance.now();
    const ids = [...this.#news];
    this.#news.clear();
    const unknown = ids.filter((id) => !this.#readers.has(id));
    try {
      const own = await this.address();
      const rows = await this.#database.read<{ id: number; bell: string }>({
        name: 'bus-bells',
        text: `SELECT DISTINCT a.partition_id AS id, m.bell FROM sagax.bus_assignments a
                 JOIN sagax.bus_members m ON m.group_name = a.group_name AND m.member = a.owner
                WHERE a.partition_id = ANY ($1::int[]) AND m.bell IS NOT NULL AND m.bell <> $2
                  AND m.expires_at > clock_timestamp()`,
        values: [ids, own ?? ''],
      });
      this.#note(ids, rows);
      this.#tell(unknown);
    } catch (err) {
      this.#log.debug({ err }, 'who is to be rung could not be asked');
    } finally {
      this.#asking = false;
    }
  }

  #note(ids: readonly number[], rows: readonly { id: number; bell: string }[]): void {
    const known = new Map([...this.#readers.values()].flat().map((bell) => [textOf(bell), bell]));
    const byId = Map.groupBy(rows, ({ id }) => id);
    for (const id of ids) {
      const bells = (byId.get(id) ?? []).flatMap(({ bell: text }) => {
        const bell = known.get(text) ?? parse(text);
        if (bell === null || !this.#reaches(bell)) return [];
        known.set(text, bell);
        return [bell];
      });
      this.#readers.set(id, bells);
    }
  }

  /** A loopback address is another process's only on the same machine. */
  #reaches({ host }: Bell): boolean {
    const own = this.#listening?.host;
    return own !== undefined && isIP(own) === isIP(host) && isLoopback(own) === isLoopback(host);
  }
}

function textOf({ host, port, key }: Address): string {
  return `${host} ${port} ${key}`;
}

function parse(text: string): Bell | null {
  const [host = '', port = '', key = ''] = text.split(' ');
  if (isIP(host) === 0 || !/^\d{1,5}$/.test(port) || !/^[0-9a-f]{32}$/.test(key)) return null;
  const number = Number(port);
  return number > 0 && number < 65_536 ? { host, port: number, key, load: new Patience() } : null;
}

function isLoopback(host: string): boolean {
  return host === '::1' || host.startsWith('127.');
}
