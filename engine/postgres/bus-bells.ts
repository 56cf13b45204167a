/**
 * Bells between the processes of a Postgres bus: a datagram that says "something has been committed for you", and what.
 *
 * Guards that a bell is a hint and nothing more: who is not told (a lost datagram, a closed network, an older process)
 * finds the messages by looking; who is told too often, or by a stranger without the key, does no more than look. What
 * is committed comes along sealed (`bus-peers.ts`), where it fits and the other one understands it. It listens only at the
 * address by which this process reaches the database, and keeps no process alive.
 */
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket, type SocketOptions } from 'node:dgram';
import { isIP, isIPv6 } from 'node:net';
import { SagaxError } from '../core/errors.ts';
import { Patience } from '../core/patience.ts';
import { pack, unpack } from './bus-datagrams.ts';
import type { BusLog } from './bus-log.ts';
import type { Committed } from './bus-offsets.ts';
import { BusPeers } from './bus-peers.ts';
import { SEAL_BYTES } from './bus-seals.ts';
import type { Database } from './pool.ts';

/** How old the knowledge of who reads a partition may be, while there are messages for it. */
const FRESH_MS = 1_000;
/** How soon it is asked again when there is a partition that was never asked for. */
const NEW_MS = 50;
/** Of a process without an address in the network: it speaks to the database through a socket of this machine. */
const LOOPBACK = '127.0.0.1';
/** Of the key that a datagram begins with. */
const KEY_BYTES = 32;
/** Longest datagram: what networks carry in one piece, and what is no trouble within a machine. */
const DATAGRAM_BYTES = 1_200;
const LOCAL_DATAGRAM_BYTES = 8_000;

interface Address {
  host: string;
  port: number;
  key: string;
  /** Whom messages are sealed for; null for a process that only knows how to look. */
  publicKey: string | null;
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

/** What is heard. */
export interface Heard {
  /** There is something. */
  rung: () => void;
  /** This is on the bus. */
  told: (messages: readonly Committed[]) => void;
}

export class BusBells {
  readonly #database: Database;
  readonly #log: BusLog;
  readonly #heard: Heard;
  readonly #peers: BusPeers;
  readonly #key = randomBytes(KEY_BYTES / 2).toString('hex');
  /** Whether the others can find this process among the members: only then are messages that it sends believed. */
  isMember = false;
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

  constructor(database: Database, log: BusLog, heard: Heard) {
    this.#database = database;
    this.#log = log;
    this.#heard = heard;
    this.#peers = new BusPeers(database, log);
  }

  /** What others need to ring: `host port key publicKey`. Null when nobody could reach it. */
  async address(): Promise<string | null> {
    const listening = await this.#open();
    if (listening === null) return null;
    return textOf({
      host: listening.host,
      port: listening.socket.address().port,
      key: this.#key,
      publicKey: this.#peers.publicKey,
    });
  }

  /** Tells who reads these; only after their commit. */
  ring(messages: readonly Committed[]): void {
    const partitionIds = messages.map(({ id }) => id);
    for (const id of partitionIds) this.#news.add(id);
    const isKnown = partitionIds.every((id) => this.#readers.has(id));
    const due_ms = this.#askedAt + (isKnown ? FRESH_MS : NEW_MS) - performance.now();
    if (due_ms <= 0) void this.#askForReaders();
    else if (!isKnown) this.#later ??= setTimeout(() => void this.#askForReaders(), due_ms).unref();
    this.#tell(messages);
  }

  #tell(messages: readonly Committed[]): void {
    const byBell = new Map<Bell, Committed[]>();
    for (const message of messages) {
      for (const bell of this.#readers.get(message.id) ?? []) {
        const theirs = byBell.get(bell);
        if (theirs === undefined) byBell.set(bell, [message]);
        else theirs.push(message);
      }
    }
    const now = performance.now();
    for (const [bell, theirs] of byBell) {
      if (!bell.load.pays(now, this.#tells(bell))) {
        this.#send(bell, this.#sealed(bell, theirs) ?? ['']);
      }
      bell.load.found(theirs.length, now);
    }
  }

  /** Those that messages had come for before it was known who reads them. */
  #ringAt(partitionIds: readonly number[]): void {
    const bells = new Set(partitionIds.flatMap((id) => this.#readers.get(id) ?? []));
    for (const bell of bells) this.#send(bell, ['']);
  }

  /** @param sealed what comes behind the key of each datagram */
  #send({ host, port, key }: Bell, sealed: readonly (Buffer | '')[]): void {
    for (const one of sealed) {
      this.#listening?.socket.send([key, one], port, host, () => undefined);
    }
  }

  /** Whether it is told what there is, and not only that there is something. */
  #tells({ publicKey }: Bell): boolean {
    return publicKey !== null && this.isMember;
  }

  /** @returns null when it can only be told that there is something */
  #sealed(bell: Bell, messages: readonly Committed[]): Buffer[] | null {
    const { host, publicKey } = bell;
    if (publicKey === null || !this.#tells(bell)) return null;
    const longest = isLoopback(host) ? LOCAL_DATAGRAM_BYTES : DATAGRAM_BYTES;
    const texts = pack(messages, longest - KEY_BYTES - SEAL_BYTES);
    if (texts === null) return null;
    const sealed = texts.map((text) => this.#peers.seal(publicKey, text));
    return sealed.every((each) => each !== null) ? sealed : null;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#forgetLater();
    this.#peers.close();
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
    const type = isIPv6(host) ? 'udp6' : 'udp4';
    const socket = createSocket({ type, lookup: asGiven }).unref();
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind({ address: host, port: 0 }, resolve);
    }).catch((error: unknown) => {
      socket.close();
      throw error;
    });
    socket.on('message', (said) => this.#hear(said));
    // Not reached, no buffer, no route: they look by themselves.
    socket.on('error', (err) => this.#log.debug({ err }, 'a bell could not be rung'));
    return { socket, host };
  }

  #hear(said: Buffer): void {
    if (said.toString('latin1', 0, KEY_BYTES) !== this.#key) return;
    const sealed = said.subarray(KEY_BYTES);
    if (sealed.length > 0 && sealed.length < SEAL_BYTES) return;
    const text = sealed.length === 0 ? null : this.#peers.open(sealed);
    const messages = text === null ? null : unpack(text);
    if (messages === null) this.#heard.rung();
    else this.#heard.told(messages);
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
      this.#ringAt(unknown);
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
    const left = [...this.#readers.values()].flat().flatMap(({ publicKey }) => publicKey ?? []);
    this.#peers.keepReaders(new Set(left));
  }

  /** A loopback address is another process's only on the same machine. */
  #reaches({ host }: Bell): boolean {
    const own = this.#listening?.host;
    return own !== undefined && isIP(own) === isIP(host) && isLoopback(own) === isLoopback(host);
  }
}

function textOf({ host, port, key, publicKey }: Address): string {
  return [host, port, key, ...(publicKey === null ? [] : [publicKey])].join(' ');
}

function parse(text: string): Bell | null {
  const [host = '', port = '', key = '', publicKey = null] = text.split(' ');
  if (isIP(host) === 0 || !/^\d{1,5}$/.test(port) || !/^[0-9a-f]{32}$/.test(key)) return null;
  const number = Number(port);
  if (number < 1 || number > 65_535) return null;
  return { host, port: number, key, publicKey, load: new Patience() };
}

/** All are addresses: there is no name to ask for. */
const asGiven: NonNullable<SocketOptions['lookup']> = (address, { family }, done) =>
  done(null, address, Number(family));

function isLoopback(host: string): boolean {
  return host === '::1' || host.startsWith('127.');
}
