/**
 * Messages of the Postgres wire protocol (version 3): cut out of a byte stream, and made.
 *
 * Guards that whoever judges a stream sees whole messages in their order, however the network cut the bytes.
 * Only what the proxy needs to know is taken apart; everything else is passed on as it came.
 */

export interface Frame {
  /** The message's type letter; empty for a start-up packet, which has none. */
  type: string;
  /** What follows the length. */
  body: Buffer;
  /** All of it, as it stood on the wire. */
  raw: Buffer;
}

/** A message may hold one value of up to 1 GB; nothing that is tested here comes near this. */
const MAX_FRAME_BYTES = 256 * 1024 * 1024;

/** Cuts a stream into messages. A client's stream begins with packets that have no type: `typed: false`. */
export class Framer {
  /** Set once the start-up packet has been seen. */
  typed: boolean;
  #rest: Buffer = Buffer.alloc(0);

  constructor(typed: boolean) {
    this.typed = typed;
  }

  /** The messages that are whole now. `typed` is looked at anew for each: the caller sets it on the way. */
  *take(chunk: Buffer): Generator<Frame> {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (;;) {
      const head = this.typed ? 1 : 0;
      if (this.#rest.length < head + 4) return;
      const length = this.#rest.readInt32BE(head) + head;
      if (length < head + 4 || length > MAX_FRAME_BYTES) {
        throw new Error(`A message of ${length} bytes: this is not the Postgres protocol.`);
      }
      if (this.#rest.length < length) return;
      const raw = this.#rest.subarray(0, length);
      this.#rest = this.#rest.subarray(length);
      yield {
        type: this.typed ? String.fromCharCode(raw[0] as number) : '',
        body: raw.subarray(head + 4),
        raw,
      };
    }
  }
}

/** The text that begins at `from` and ends at a zero byte, and where the next one begins. */
export function textAt(body: Buffer, from: number): { text: string; next: number } {
  const end = body.indexOf(0, from);
  if (end < 0) throw new Error('A text of the protocol has no end.');
  return { text: body.toString('utf8', from, end), next: end + 1 };
}

/** The parameters of a start-up packet: `user`, `database`, `application_name` … */
export function startupParameters(body: Buffer): { [name: string]: string } {
  const parameters: { [name: string]: string } = {};
  for (let from = 4; from < body.length && body[from] !== 0;) {
    const name = textAt(body, from);
    const value = textAt(body, name.next);
    parameters[name.text] = value.text;
    from = value.next;
  }
  return parameters;
}

function message(type: string, ...parts: (Buffer | string)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => (typeof part === 'string' ? Buffer.from(`${part}\0`, 'utf8') : part)),
  );
  const head = Buffer.alloc(5);
  head.write(type, 0, 'latin1');
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

export function errorResponse(severity: 'ERROR' | 'FATAL', code: string, text: string): Buffer {
  return message('E', `S${severity}`, `V${severity}`, `C${code}`, `M${text}`, Buffer.from([0]));
}

/** Runs `sql`, which has no parameters, in place of what was to run: the answers are those of one statement. */
export function instead(sql: string): Buffer {
  const none = Buffer.alloc(6);
  const everyRow = Buffer.alloc(4);
  return Buffer.concat([
    message('P', '', sql, Buffer.alloc(2)),
    message('B', '', '', none),
    message('E', '', everyRow),
    message('S'),
  ]);
}
