/**
 * The wire protocol: docs/WIRE.md is true, and hostile bytes are refused at the border.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it, test } from 'vitest';
import { z } from 'zod';
import { MAX_JSON_DEPTH } from '../../engine/core/json.ts';
import { murmur2, partitionOf } from '../../engine/core/shards.ts';
import { decodeLetter, encodeLetter } from '../../engine/core/letters.ts';
import {
  CE_TYPES,
  decodeCommand,
  decodeInbox,
  encodeMessage,
  MAX_BODY_BYTES,
  parseBody,
} from '../../engine/core/wire.ts';

const page = readFileSync(new URL('../../docs/WIRE.md', import.meta.url), 'utf8');
const SAGA_ID = '173212345678901248';
const reply = {
  commandId: `${SAGA_ID}.1`,
  sagaId: SAGA_ID,
  namespace: 'default',
  attempt: 1,
  outcome: 'succeeded',
  output: null,
};
/** docs/WIRE.md gives its shape; the engine only writes it, so the core has no schema for it. */
const domainEventSchema = z.strictObject({
  sagaId: z.string(),
  namespace: z.string(),
  streamVersion: z.int().positive(),
  event: z.looseObject({ type: z.string() }),
});

function decode(kind: string, value: string): unknown {
  if (kind === 'domainEvent') return domainEventSchema.parse(parseBody(value));
  if (kind === 'deadLetter')
    return JSON.parse(encodeLetter('billing', decodeLetter({ value })).value);
  const headers = { ce_type: CE_TYPES[kind as keyof typeof CE_TYPES] };
  return kind === 'command'
    ? decodeCommand({ headers, value })
    : decodeInbox({ headers, value }).body;
}

describe('docs/WIRE.md', () => {
  const blocks = [...page.matchAll(/(<!-- schema: (\w+) -->\n+)?```json\n([\s\S]*?)```/g)].map(
    ([, , kind, json]) => ({ kind: kind ?? '', json: json ?? '' }),
  );

  it('has examples of every kind of message, each named', () => {
    expect(new Set(blocks.map(({ kind }) => kind))).toEqual(new Set(Object.keys(CE_TYPES)));
    const outcomes = blocks.flatMap(({ json }) => /"outcome": "(\w+)"/.exec(json)?.[1] ?? []);
    const all = 'succeeded rejected failed pending heartbeat neverRan superseded'.split(' ');
    expect(outcomes.sort()).toEqual(all.sort());
  });

  test.each(blocks)('$kind example $#', ({ kind, json }) => {
    // Strict in the other direction too: the schemas add defaults, and drop nothing that the page shows.
    expect(decode(kind, json)).toEqual(JSON.parse(json));
  });

  it('names every ce_type and header that is sent', () => {
    const { headers } = encodeMessage(
      { type: CE_TYPES.reply, id: 'i', source: '/s', at: 0, sagaId: SAGA_ID, traceparent: 't' },
      reply,
    );
    for (const word of [...Object.values(CE_TYPES), ...Object.keys(headers)]) {
      expect(page).toContain(`\`${word}\``);
    }
  });

  it('has a kcat line whose body is a valid reply', () => {
    const body = /printf '%s' '(\{.*\})'/.exec(page)?.[1] ?? '';
    expect(decode('reply', body)).toMatchObject({ outcome: 'succeeded', sagaId: SAGA_ID });
  });
});

describe('hostile messages', () => {
  const withType = (value: string | null, type: string = CE_TYPES.reply): unknown =>
    decodeInbox({ headers: { ce_type: type }, value });
  const nested = (depth: number): string => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
  const text = (output: string): string =>
    JSON.stringify({ ...reply, output: 'HERE' }).replace('"HERE"', output);

  test.each([
    ['a key that changes prototypes', text('{"__proto__":{"admin":true}}')],
    ['constructor', text('{"constructor":{"prototype":{}}}')],
    ['one deep down in an array', text('[[{"x":[{"__proto__":1}]}]]')],
    ['nesting beyond the limit', text(nested(MAX_JSON_DEPTH))],
    ['an abyss', text(`${'['.repeat(200_000)}${']'.repeat(200_000)}`)],
    ['too many bytes', text(JSON.stringify('x'.repeat(MAX_BODY_BYTES)))],
    ['too many bytes of few characters', text(JSON.stringify('😀'.repeat(MAX_BODY_BYTES / 4)))],
    ['U+0000', text('"a\\u0000b"')],
    ['half a surrogate pair', text('"\\ud800"')],
    ['U+0000 in a key', text('[{"a\\u0000b":1}]')],
    ['half a surrogate pair in a key', text('{"\\ud800":1}')],
    ['a number that overflows', text('1e999')],
  ])('refuses %s', (_, value) => {
    expect(() => withType(value)).toThrow(expect.objectContaining({ code: 'PAYLOAD_REFUSED' }));
    expect(({} as { admin?: boolean }).admin).toBeUndefined();
  });

  test.each([
    ['no body', null],
    ['an empty body', ''],
    ['no JSON', '{"commandId":'],
    [
      'broken UTF-8, as the bus delivers it',
      Buffer.from([0x7b, 0xff, 0xfe, 0x7d]).toString('utf8'),
    ],
    ['an array', '[]'],
    ['a number', '7'],
    ['an id as a number', JSON.stringify({ ...reply, sagaId: 173212345678901248 })],
    ['an id of twenty digits', JSON.stringify({ ...reply, sagaId: '1'.repeat(20) })],
    ['a command id with SQL in it', JSON.stringify({ ...reply, commandId: "1.1'; DROP" })],
    ['an unknown outcome', JSON.stringify({ ...reply, outcome: 'perhaps' })],
    ['a failure without a code', JSON.stringify({ ...reply, outcome: 'failed', failure: {} })],
    ['attempt 0', JSON.stringify({ ...reply, attempt: 0 })],
    ['an attempt that is a text', JSON.stringify({ ...reply, attempt: '1' })],
    ['a namespace with a slash', JSON.stringify({ ...reply, namespace: '../other' })],
  ])('refuses %s', (_, value) => {
    expect(() => withType(value)).toThrow(expect.objectContaining({ code: 'MESSAGE_INVALID' }));
  });

  test.each(['', 'sagax.reply.v2', 'toString', '__proto__', CE_TYPES.command])(
    'refuses the ce_type "%s" in the inbox',
    (type) => {
      expect(() => withType(JSON.stringify(reply), type)).toThrow(
        expect.objectContaining({ code: 'MESSAGE_INVALID' }),
      );
    },
  );

  it('takes what is just within the limits', () => {
    expect(withType(text(nested(MAX_JSON_DEPTH - 2)))).toMatchObject({ type: 'reply' });
    const room = MAX_BODY_BYTES - Buffer.byteLength(text('""'));
    expect(withType(text(JSON.stringify('x'.repeat(room))))).toMatchObject({ type: 'reply' });
  });

  it('fills in what a reply may leave out, and ignores what it does not know', () => {
    const { namespace: _, attempt: __, ...short } = reply;
    expect(
      decodeInbox({
        headers: { ce_type: CE_TYPES.reply },
        value: JSON.stringify({ ...short, later: 1 }),
      }),
    ).toEqual({ type: 'reply', body: reply });
  });

  it('says whose worker wrote a reply, when its source does', () => {
    const from = (source: string): unknown =>
      decodeInbox({
        headers: { ce_type: CE_TYPES.reply, ce_source: source },
        value: JSON.stringify(reply),
      });
    expect(from('/sagax/workers/billing')).toEqual({
      type: 'reply',
      body: reply,
      service: 'billing',
    });
    expect(from('/billing')).toEqual({ type: 'reply', body: reply });
  });

  it('refuses to send a body over the limit', () => {
    const envelope = { type: CE_TYPES.reply, id: 'i', source: '/s', at: 0, sagaId: SAGA_ID };
    expect(() => encodeMessage(envelope, { x: 'y'.repeat(MAX_BODY_BYTES) })).toThrow(
      expect.objectContaining({ code: 'PAYLOAD_REFUSED' }),
    );
  });
});

describe('partitions', () => {
  // Values of org.apache.kafka.common.utils.UtilsTest.testMurmur2.
  test.each([
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ['abc', 479470107],
  ])('murmur2 of "%s" is %d, as Kafka has it', (text, hash) => {
    expect(murmur2(new TextEncoder().encode(text))).toBe(hash);
  });

  it('stays within the count', () => {
    for (let i = 0; i < 1_000; i++) {
      const partition = partitionOf(`${SAGA_ID}${i}`, 7);
      expect(partition >= 0 && partition < 7).toBe(true);
    }
  });
});
