/**
 * Compression codecs that kafkajs lacks, so that a batch someone else wrote can't stop a consumer.
 *
 * kafkajs reads gzip only; any other codec throws in its decoder, and the whole consumer with it. Here
 * zstd is read by Node itself. Snappy and LZ4 batches are not read: each of their records comes as a
 * message without a value and with the header UNREADABLE_HEADER, so it is parked as a dead letter at
 * its own offset, and the partition goes on.
 */
import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
// `CompressionCodecs` is the live registry; Node can't see it among the names of a CommonJS module.
import kafkajs from 'kafkajs';

/** Set on messages of a batch that could not be decompressed; its value names the codec. */
export const UNREADABLE_HEADER = 'sagax-unreadable';

/** More records than this in one unreadable batch, and the consumer stops at it. */
const MAX_UNREADABLE_RECORDS = 65_536;

/** A fetch brings about 1 MiB of a partition; what swells to more than this is taken for a bomb. */
const MAX_INFLATED_BYTES = 64 * 1024 * 1024;

const inflateZstd = promisify(zstdDecompress) as (
  data: Buffer,
  options: { maxOutputLength: number },
) => Promise<Buffer>;
const deflateZstd = promisify(zstdCompress) as (data: Buffer) => Promise<Buffer>;

let registered = false;

export function registerCodecs(): void {
  if (registered) return;
  registered = true;
  const { CompressionCodecs, CompressionTypes } = kafkajs;
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: (encoder: { buffer: Buffer }) => deflateZstd(encoder.buffer),
    decompress: (data: Buffer) =>
      inflateZstd(data, { maxOutputLength: MAX_INFLATED_BYTES }).catch(() => placeholders('zstd')),
  });
  CompressionCodecs[CompressionTypes.Snappy] = () => unreadable('snappy');
  CompressionCodecs[CompressionTypes.LZ4] = () => unreadable('lz4');
}

function unreadable(codec: string): object {
  return {
    compress: () => Promise.reject(new Error(`${codec} is not supported for sending.`)),
    decompress: () => Promise.resolve(placeholders(codec)),
  };
}

const placeholderCache = new Map<string, Buffer>();

/**
 * Records (message format 2, magic 2) with nothing but the header, one for each offset of a batch. The decoder
 * reads as many as the batch says it has and ignores the rest.
 */
export function placeholders(codec: string): Buffer {
  const cached = placeholderCache.get(codec);
  if (cached !== undefined) return cached;
  const name = Buffer.from(UNREADABLE_HEADER);
  const value = Buffer.from(codec);
  const header = Buffer.concat([varint(1), varint(name.length), name, varint(value.length), value]);
  const records: Buffer[] = [];
  for (let offsetDelta = 0; offsetDelta < MAX_UNREADABLE_RECORDS; offsetDelta++) {
    // attributes, timestampDelta, offsetDelta, key length -1, value length -1, headers
    const noKey = varint(-1);
    const body = Buffer.concat([
      Buffer.of(0),
      varint(0),
      varint(offsetDelta),
      noKey,
      noKey,
      header,
    ]);
    records.push(varint(body.length), body);
  }
  const buffer = Buffer.concat(records);
  placeholderCache.set(codec, buffer);
  return buffer;
}

/** Zigzag varint, as Kafka's records use it. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = ((value << 1) ^ (value >> 31)) >>> 0;
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}
