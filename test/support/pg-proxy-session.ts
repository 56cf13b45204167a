/**
 * One connection through the proxy: follows both sides message by message, and breaks it as the plan says.
 *
 * Guards that a fault leaves the connection in the state that a real one leaves: an error that is injected
 * stands in the order of answers where the statement's own would (also with statements sent ahead), aborts the server's
 * transaction, and keeps what was parsed; a reply is lost only after the server has done the work.
 */
import type { Socket } from 'node:net';
import { errorResponse, Framer, instead, startupParameters, textAt } from './pg-proxy-frames.ts';
import type { Frame } from './pg-proxy-frames.ts';

/** A statement that a client is about to have executed. */
export interface Statement {
  /** Its SQL. */
  text: string;
  /** The name it was prepared under; empty without one. */
  name: string;
  /** `application_name` of the connection. */
  application: string;
  /** Counts the connections of the proxy, from 1. */
  session: number;
}

export type Fault =
  /** An error in place of the statement. The connection lives on; a transaction is aborted. */
  | { kind: 'error'; code: string }
  /** The server says why, and closes the connection. The statement is not executed. */
  | { kind: 'fatal'; code: string }
  /** The connection is reset, with nothing said. The statement is not executed. */
  | { kind: 'cut' }
  /** The statement is executed, and the connection is reset before its answer passes. */
  | { kind: 'lose-reply' }
  /** From here on nothing passes, in either direction, and neither side is told. */
  | { kind: 'go-silent' };

/**
 * What a fault came to. `done`: it took place. `committed`: a reply was lost, and its work is in the database for
 * good. `uncommitted`: a reply was lost within a transaction. `refused`: no reply was lost, since the server said no.
 */
export type Outcome = 'done' | 'committed' | 'uncommitted' | 'refused';

export interface SessionHost {
  /** Asked once for each statement, before the server gets it. */
  faultFor(statement: Statement): Fault | null;
  happened(fault: Fault, statement: Statement, outcome: Outcome): void;
  /** Delay of bytes that pass now, ms. */
  delayMs(): number;
}

/** What the client waits an answer for. */
interface Slot {
  statement: Statement | null;
  fault: Fault | null;
  /** Answers to Parse that belong to the client; the proxy's own statement is parsed after it. */
  parses: number;
  held: Buffer[];
  refused: boolean;
}

const SSL_REQUEST = 80_877_103;
const GSS_REQUEST = 80_877_104;
/** What a server may say at any time, without being asked. */
const UNASKED = new Set(['N', 'S', 'A']);
const RAISE = (code: string): string =>
  `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '${code}', MESSAGE = 'injected'; END $$`;

/** Passes bytes on after a delay, in their order. */
class DelayLine {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #delayMs: () => number;
  #lastDue = 0;
  /** As long as what the two sides send within one delay. */
  readonly #waiting: (() => void)[] = [];

  constructor(from: Socket, to: Socket, delayMs: () => number) {
    this.#from = from;
    this.#to = to;
    this.#delayMs = delayMs;
  }

  write(bytes: Buffer): void {
    this.#later(() => this.#pass(bytes));
  }

  /** The end comes behind what was written. */
  end(): void {
    this.#later(() => void this.#to.end());
  }

  #later(pass: () => void): void {
    const delay_ms = this.#delayMs();
    if (delay_ms <= 0 && this.#waiting.length === 0) return pass();
    this.#lastDue = Math.max(this.#lastDue, performance.now() + delay_ms);
    this.#waiting.push(pass);
    // Timers of one moment run in any order, so each passes on what is oldest.
    setTimeout(() => this.#waiting.shift()?.(), Math.max(0, this.#lastDue - performance.now()));
  }

  #pass(bytes: Buffer): void {
    if (this.#to.destroyed || !this.#to.writable) return;
    if (this.#to.write(bytes)) return;
    this.#from.pause();
    this.#to.once('drain', () => this.#from.resume());
  }
}

export class Session {
  readonly number: number;
  readonly #host: SessionHost;
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #toClient: DelayLine;
  readonly #toServer: DelayLine;
  readonly #fromClient = new Framer(false);
  readonly #fromServer = new Framer(true);
  readonly #prepared = new Map<string, string>();
  /** In the order of the answers. The first one is the log-in's. */
  readonly #slots: Slot[] = [slotOf(null, null)];
  #request: Frame[] = [];
  #application = '';
  #silent = false;
  /** Behind a fault that ends the connection nothing goes to the server any more. */
  #sealed = false;

  constructor(host: SessionHost, client: Socket, server: Socket, number: number) {
    this.#host = host;
    this.#client = client;
    this.#server = server;
    this.number = number;
    this.#toClient = new DelayLine(server, client, () => host.delayMs());
    this.#toServer = new DelayLine(client, server, () => host.delayMs());
    client.on('data', (chunk: Buffer) => this.#guarded(() => this.#clientSays(chunk)));
    server.on('data', (chunk: Buffer) => this.#guarded(() => this.#serverSays(chunk)));
    // A side that goes away is the other's to know, except when the line between them is dead.
    client.on('close', () => this.#silent || server.destroy());
    server.on('close', () => this.#silent || this.#toClient.end());
  }

  get application(): string {
    return this.#application;
  }

  get isOpen(): boolean {
    return !this.#client.destroyed || !this.#server.destroyed;
  }

  /** Whether nothing passes any more though neither side was told. */
  get isSilent(): boolean {
    return this.#silent;
  }

  /** The line goes dead: each side believes that the other is still there. */
  goSilent(): void {
    this.#silent = true;
  }

  /** Resets both sides. */
  cut(): void {
    this.#sealed = true;
    this.#client.resetAndDestroy();
    this.#server.destroy();
  }

  /** What can't be followed can't be judged: better no connection than a wrong one. */
  #guarded(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#client.destroy(error as Error);
      this.#server.destroy();
    }
  }

  #clientSays(chunk: Buffer): void {
    for (const frame of this.#fromClient.take(chunk)) {
      if (this.#silent || this.#sealed) return;
      if (frame.type === '') this.#startUp(frame);
      else this.#follow(frame);
    }
  }

  #startUp(frame: Frame): void {
    const code = frame.body.readInt32BE(0);
    if (code === SSL_REQUEST || code === GSS_REQUEST) {
      // Inside TLS nothing could be followed: loopback goes without.
      this.#toClient.write(Buffer.from('N'));
      return;
    }
    this.#application = startupParameters(frame.body)['application_name'] ?? '';
    this.#fromClient.typed = true;
    this.#toServer.write(frame.raw);
  }

  /** Gathers a request up to the point where the server answers it: Sync, or a simple query. */
  #follow(frame: Frame): void {
    switch (frame.type) {
      case 'P': {
        const { text: name, next } = textAt(frame.body, 0);
        this.#prepared.set(name, textAt(frame.body, next).text);
        this.#request.push(frame);
        return;
      }
      case 'Q':
      case 'S':
        this.#request.push(frame);
        return this.#send();
      case 'B':
      case 'D':
      case 'E':
      case 'C':
        this.#request.push(frame);
        return;
      case 'H':
        throw new Error('Flush is not followed by this proxy: use no cursors through it.');
      default:
        this.#toServer.write(frame.raw);
    }
  }

  #send(): void {
    const request = this.#request;
    this.#request = [];
    const statement = this.#statementOf(request);
    const fault = statement === null ? null : this.#host.faultFor(statement);
    const slot = slotOf(statement, fault);
    this.#slots.push(slot);
    const parses = request.filter(({ type }) => type === 'P');
    slot.parses = parses.length;
    switch (fault?.kind) {
      case undefined:
      case 'lose-reply':
        return this.#toServer.write(Buffer.concat(request.map(({ raw }) => raw)));
      case 'error': {
        // A commit that fails has rolled back; anything else leaves an aborted transaction.
        const isCommit = /^\s*commit\b/i.test(statement?.text ?? '');
        const sql = isCommit ? 'ROLLBACK' : RAISE(fault.code);
        return this.#toServer.write(Buffer.concat([...parses.map(({ raw }) => raw), instead(sql)]));
      }
      case 'go-silent':
        this.#report(slot, 'done');
        return this.goSilent();
      case 'fatal':
      case 'cut':
        this.#sealed = true;
        if (this.#slots[0] === slot) this.#end(slot);
    }
  }

  #statementOf(request: readonly Frame[]): Statement | null {
    const of = { application: this.#application, session: this.number };
    for (const { type, body } of request) {
      if (type === 'Q') return { ...of, text: textAt(body, 0).text, name: '' };
      if (type !== 'B') continue;
      const name = textAt(body, textAt(body, 0).next).text;
      return { ...of, text: this.#prepared.get(name) ?? '', name };
    }
    return null;
  }

  #serverSays(chunk: Buffer): void {
    for (const frame of this.#fromServer.take(chunk)) {
      if (this.#silent) return;
      const slot = this.#slots[0];
      if (slot === undefined || UNASKED.has(frame.type)) this.#toClient.write(frame.raw);
      else this.#answer(slot, frame);
    }
  }

  #answer(slot: Slot, frame: Frame): void {
    const ends = frame.type === 'Z';
    if (slot.fault?.kind === 'error') {
      if (frame.type === '1' && slot.parses-- > 0) this.#toClient.write(frame.raw);
      if (ends) {
        this.#toClient.write(
          errorResponse('ERROR', slot.fault.code, 'injected in place of the statement'),
        );
        this.#toClient.write(frame.raw);
        this.#report(slot, 'done');
      }
    } else if (slot.fault?.kind === 'lose-reply') {
      slot.held.push(frame.raw);
      if (frame.type === 'E') slot.refused = true;
      if (ends) return this.#lose(slot, String.fromCharCode(frame.body[0] as number));
    } else {
      this.#toClient.write(frame.raw);
    }
    if (ends) this.#next();
  }

  /** The server has answered, so the work is done; the client never hears of it. */
  #lose(slot: Slot, status: string): void {
    if (!slot.refused) {
      this.#report(slot, status === 'I' ? 'committed' : 'uncommitted');
      return this.cut();
    }
    this.#toClient.write(Buffer.concat(slot.held));
    this.#report(slot, 'refused');
    this.#next();
  }

  /** The first answer has passed; the next one may be one that the proxy gives. */
  #next(): void {
    this.#slots.shift();
    const next = this.#slots[0];
    if (next?.fault?.kind === 'fatal' || next?.fault?.kind === 'cut') this.#end(next);
  }

  #end(slot: Slot): void {
    this.#report(slot, 'done');
    if (slot.fault?.kind !== 'fatal') return this.cut();
    this.#toClient.write(
      errorResponse('FATAL', slot.fault.code, 'injected: the connection ends here'),
    );
    // Closes the client's side too, after what was written.
    this.#server.destroy();
  }

  #report(slot: Slot, outcome: Outcome): void {
    if (slot.fault === null || slot.statement === null) return;
    this.#host.happened(slot.fault, slot.statement, outcome);
  }
}

function slotOf(statement: Statement | null, fault: Fault | null): Slot {
  return { statement, fault, parses: 0, held: [], refused: false };
}
