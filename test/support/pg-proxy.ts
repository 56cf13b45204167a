/**
 * A proxy in front of Postgres that speaks its protocol, and so can break it at a chosen statement.
 *
 * Guards that a test knows what it broke: every statement that passes is named and counted, and what became of
 * each fault is told (see pg-proxy-session.ts for the faults).
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { Session, type Fault, type Outcome, type Statement } from './pg-proxy-session.ts';

export type { Fault, Outcome, Statement } from './pg-proxy-session.ts';

/** Which fault meets a statement that is about to be executed. */
export type Plan = (statement: Statement & { label: string }) => Fault | null;

export interface Happened {
  fault: Fault;
  statement: Statement & { label: string };
  outcome: Outcome;
}

/** Distinct statements that are remembered; more means that labels are not stable. */
const MAX_LABELS = 2_000;
/** Labels that are kept for texts, so that long ones are not hashed again and again. */
const MAX_KNOWN_TEXTS = 5_000;

export class PgProxy {
  /** URL of the database through the proxy. */
  readonly url: string;
  /** Label of every statement that was seen → how often, and its text. */
  readonly statements = new Map<string, { text: string; count: number }>();
  /** Asked for every statement; null breaks nothing. */
  plan: Plan | null = null;
  /** Told of every fault that took place. */
  onHappened: (happened: Happened) => void = () => undefined;
  /** Delay of bytes in each direction, ms; asked for each piece. */
  delayMs: () => number = () => 0;
  /** New connections are taken and nothing ever comes of them: the host is there, the network is not. */
  blackHole = false;
  readonly #server: ReturnType<typeof createServer>;
  readonly #sockets = new Set<Socket>();
  readonly #sessions = new Set<Session>();
  readonly #labels = new Map<string, string>();
  readonly #target: URL;
  #count = 0;

  /** Use `start`. */
  constructor(target: URL, server: ReturnType<typeof createServer>) {
    this.#target = target;
    this.#server = server;
    const url = new URL(target);
    url.hostname = '127.0.0.1';
    url.port = String((server.address() as AddressInfo).port);
    this.url = url.toString();
    server.on('connection', (client) => this.#connected(client));
  }

  /** @param target URL of the database behind it */
  static async start(target: string): Promise<PgProxy> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new PgProxy(new URL(target), server);
  }

  /** Connections that one side at least believes to be open. */
  sessions(): Session[] {
    for (const session of this.#sessions) if (!session.isOpen) this.#sessions.delete(session);
    return [...this.#sessions];
  }

  /** Ends all connections, dead ones too. */
  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #connected(client: Socket): void {
    this.#keep(client);
    client.setNoDelay(true);
    if (this.blackHole) return;
    const server = connect(Number(this.#target.port), this.#target.hostname);
    server.setNoDelay(true);
    this.#keep(server);
    this.#count += 1;
    const host = {
      faultFor: (statement: Statement) => this.#faultFor(statement),
      happened: (fault: Fault, statement: Statement, outcome: Outcome) =>
        this.onHappened({
          fault,
          statement: { ...statement, label: this.#labelOf(statement.text) },
          outcome,
        }),
      delayMs: () => this.delayMs(),
    };
    this.#sessions.add(new Session(host, client, server, this.#count));
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
  }

  #faultFor(statement: Statement): Fault | null {
    const label = this.#labelOf(statement.text);
    const seen = this.statements.get(label);
    if (seen !== undefined) seen.count += 1;
    else if (this.statements.size < MAX_LABELS) {
      this.statements.set(label, { text: statement.text, count: 1 });
    } else throw new Error(`More than ${MAX_LABELS} distinct statements: labels are not stable.`);
    return this.plan?.({ ...statement, label }) ?? null;
  }

  #labelOf(text: string): string {
    const known = this.#labels.get(text);
    if (known !== undefined) return known;
    const label = labelOf(text);
    if (this.#labels.size >= MAX_KNOWN_TEXTS) this.#labels.clear();
    this.#labels.set(text, label);
    return label;
  }
}

/** A short name of a statement: its first words, and a hash of all of it with numbers and spaces made alike. */
export function labelOf(text: string): string {
  const plain = text.replaceAll(/\s+/g, ' ').replaceAll(/\d+/g, '0').trim();
  const hash = createHash('sha1').update(plain).digest('hex').slice(0, 6);
  return `${plain.slice(0, 60).trim()} #${hash}`;
}
