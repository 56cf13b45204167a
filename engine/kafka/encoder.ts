/**
 * Takes needless work out of the encoder of kafkajs 2.2.4, which is the larger half of what a message costs to send.
 *
 * Guards that the same bytes come out. kafkajs makes an encoder for each header, record and batch, each with 512 bytes
 * of zeroed memory of its own, and a buffer for each length that it writes. Here an encoder begins small (V8 keeps up
 * to 64 bytes with its own objects), grows out of Node's pool, and writes lengths in place. What is sent is what was
 * written, so nobody sees memory that was not. Where kafkajs is built otherwise, nothing is changed.
 */
import { kafkajsClass } from './internals.ts';

/** What is used of kafkajs's Encoder. */
interface Encoder {
  buf: Buffer;
  offset: number;
  ensureAvailable(this: Encoder, length: number): void;
  writeUVarInt(this: Encoder, value: number): Encoder;
}

interface EncoderClass {
  readonly prototype: Encoder;
  /** The power of two above. */
  nextPowerOfTwo(value: number): number;
}

/** With this the constructor asks for its first buffer. */
const ASKED_FIRST = 511;
const FIRST_BYTES = 64;
const MOST_VARINT_BYTES = 5;

const patched = new WeakSet<EncoderClass>();

/** Safe to call again. @returns whether kafkajs is built as expected */
export function lightenEncoder(encoder = kafkaEncoder()): boolean {
  if (encoder === null) return false;
  if (patched.has(encoder)) return true;
  patched.add(encoder);
  const { nextPowerOfTwo } = encoder;
  encoder.nextPowerOfTwo = (value) => (value === ASKED_FIRST ? FIRST_BYTES : nextPowerOfTwo(value));
  encoder.prototype.ensureAvailable = function (length): void {
    const needed = this.offset + length;
    if (needed <= this.buf.length) return;
    const grown = Buffer.allocUnsafe(nextPowerOfTwo(needed));
    this.buf.copy(grown, 0, 0, this.offset);
    this.buf = grown;
  };
  encoder.prototype.writeUVarInt = function (value): Encoder {
    this.ensureAvailable(MOST_VARINT_BYTES);
    let rest = value >>> 0;
    while (rest > 0x7f) {
      this.buf[this.offset++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.buf[this.offset++] = rest;
    return this;
  };
  return true;
}

function kafkaEncoder(): EncoderClass | null {
  const found = kafkajsClass<EncoderClass>('protocol/encoder.js', [
    'ensureAvailable',
    'writeUVarInt',
  ]);
  return typeof found?.nextPowerOfTwo === 'function' ? found : null;
}
