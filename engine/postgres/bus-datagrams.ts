/**
 * Messages as texts of datagrams: as many in one as fit, in their order.
 *
 * Guards that a datagram is never so long that the network would have to cut it, and that a text which is not one of
 * these is noticed.
 */
import type { Committed } from './bus-offsets.ts';

/** More are better read. */
const MAX_TEXTS = 8;

type Entry = [
  id: number,
  offset: string,
  key: string,
  headers: Committed['headers'],
  value: string,
];

/**
 * @param maxBytes of a text in UTF-8
 * @returns null when they don't fit, or are better read
 */
export function pack(messages: readonly Committed[], maxBytes: number): string[] | null {
  const texts: string[] = [];
  let text = '';
  let bytes = 0;
  for (const { id, offset, key, headers, value } of messages) {
    const entry = JSON.stringify([id, offset.toString(), key, headers, value] satisfies Entry);
    // With its comma and the brackets.
    const more = Buffer.byteLength(entry) + 2;
    if (more > maxBytes) return null;
    if (bytes + more > maxBytes) {
      texts.push(`[${text}]`);
      text = '';
      bytes = 0;
    }
    text += text === '' ? entry : `,${entry}`;
    bytes += more;
  }
  texts.push(`[${text}]`);
  return texts.length > MAX_TEXTS ? null : texts;
}

/** @returns null when it is no such text */
export function unpack(text: string): Committed[] | null {
  try {
    return (JSON.parse(text) as Entry[]).map(([id, offset, key, headers, value]) => ({
      id,
      offset: BigInt(offset),
      key,
      headers,
      value,
    }));
  } catch {
    return null;
  }
}
