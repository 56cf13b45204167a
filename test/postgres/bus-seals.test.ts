/** What processes of a Postgres bus send each other: readable for one, writable for one; and messages as texts. */
import { describe, expect, it } from 'vitest';
import { pack, unpack } from '../../engine/postgres/bus-datagrams.ts';
import type { Committed } from '../../engine/postgres/bus-offsets.ts';
import {
  BusSeals,
  open,
  SEAL_BYTES,
  senderOf,
  type Seal,
} from '../../engine/postgres/bus-seals.ts';

function between(a: BusSeals, b: BusSeals): [Seal, Seal] {
  return [a.with(b.publicKey) as Seal, b.with(a.publicKey) as Seal];
}

describe('a sealed text', () => {
  const [ann, bob, eve] = [new BusSeals(), new BusSeals(), new BusSeals()];
  const [annToBob, bobToAnn] = between(ann, bob);
  const [annToEve, eveToAnn] = between(ann, eve);
  const text = 'a "text" ü \u0000';

  it('is opened by whom it is for, and says whom it is from', () => {
    const sealed = ann.seal(annToBob, text);
    expect(senderOf(sealed)).toBe(ann.publicKey);
    expect(open(bobToAnn, sealed)).toBe(text);
    expect(sealed).toHaveLength(Buffer.byteLength(text) + SEAL_BYTES);
  });

  it('is opened by nobody else, nor sent back to its sender, nor taken for another direction', () => {
    const sealed = ann.seal(annToBob, text);
    expect(open(eveToAnn, sealed)).toBeNull();
    expect(open(annToBob, sealed)).toBeNull();
    expect(open(bobToAnn, ann.seal(annToEve, text))).toBeNull();
    expect(open(bobToAnn, eve.seal(eveToAnn, text))).toBeNull();
  });

  it('never looks the same twice', () => {
    const seen = new Set(
      Array.from({ length: 100 }, () => ann.seal(annToBob, text).toString('hex')),
    );
    expect(seen.size).toBe(100);
    const nonces = new Set([...seen].map((hex) => hex.slice(64, 64 + 24)));
    expect(nonces.size).toBe(100);
  });

  it('is not opened when a bit of it differs, and one that is too short is from nobody', () => {
    const sealed = ann.seal(annToBob, text);
    for (let at = 32; at < sealed.length; at++) {
      const other = Buffer.from(sealed);
      other[at] = (other[at] ?? 0) ^ 0x10;
      expect(open(bobToAnn, other)).toBeNull();
    }
    expect(senderOf(sealed.subarray(0, SEAL_BYTES - 1))).toBeNull();
  });

  it.each(['', 'AAAA', 'A'.repeat(43), '\u0000', `${'A'.repeat(43)}=`])(
    'can not be made for %j, which is no key',
    (key) => {
      expect(ann.with(key)).toBeNull();
    },
  );
});

describe('messages as texts', () => {
  const many = (count: number, value = 'v'): Committed[] =>
    Array.from({ length: count }, (_, n) => ({
      id: n % 3,
      offset: 2n ** 53n + BigInt(n),
      key: `k${n} ü`,
      headers: { h: '"', __proto__x: 'y' },
      value,
    }));

  it('come out as they went in, in order, in texts of at most so many bytes', () => {
    const messages = many(20, 'ü'.repeat(10));
    expect(pack(messages, 100)).toBeNull();
    for (const limit of [300, 1_000, 10_000]) {
      const texts = pack(messages, limit) ?? [];
      expect(Math.max(...texts.map((text) => Buffer.byteLength(text)))).toBeLessThanOrEqual(limit);
      expect(texts.flatMap((text) => unpack(text) ?? [])).toEqual(messages);
    }
  });

  it('are not packed when one is too large', () => {
    expect(pack([...many(1), ...many(1, 'x'.repeat(1_000))], 1_000)).toBeNull();
  });

  it.each(['', '{}', '[1]', '[[1]]', '[[1,"x","k",{},"v"]]', 'null', '[null]'])(
    'are not made of %j',
    (text) => {
      expect(unpack(text)).toBeNull();
    },
  );
});
