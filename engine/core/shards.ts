/**
 * Which shard, and which partition of a topic, a saga belongs to.
 *
 * Guards that every producer agrees: it is Kafka's own default (murmur2 over the key's UTF-8 bytes,
 * sign bit cleared, modulo the count), so a foreign client that only sets the key ends up right too.
 */

/** Kafka's murmur2, as in org.apache.kafka.common.utils.Utils.murmur2. Returns a signed 32-bit int. */
export function murmur2(bytes: Uint8Array): number {
  const m = 0x5bd1e995;
  const length = bytes.length;
  let h = (0x9747b28c ^ length) | 0;
  const words = length >> 2;
  for (let i = 0; i < words; i++) {
    const o = i << 2;
    let k =
      at(bytes, o) | (at(bytes, o + 1) << 8) | (at(bytes, o + 2) << 16) | (at(bytes, o + 3) << 24);
    k = Math.imul(k, m);
    k ^= k >>> 24;
    k = Math.imul(k, m);
    h = Math.imul(h, m) ^ k;
  }
  const tail = words << 2;
  const rest = length & 3;
  if (rest > 0) {
    if (rest === 3) h ^= at(bytes, tail + 2) << 16;
    if (rest >= 2) h ^= at(bytes, tail + 1) << 8;
    h = Math.imul(h ^ at(bytes, tail), m);
  }
  h ^= h >>> 13;
  h = Math.imul(h, m);
  return h ^ (h >>> 15);
}

const encoder = new TextEncoder();

/** The partition (0-based) of a topic with `count` partitions that `key` belongs to. */
export function partitionOf(key: string, count: number): number {
  return (murmur2(encoder.encode(key)) & 0x7fffffff) % count;
}

function at(bytes: Uint8Array, index: number): number {
  return bytes[index] ?? 0;
}
