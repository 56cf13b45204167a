/** That the lightened encoder of kafkajs writes the bytes that the one as it comes writes. */
import { createRequire } from 'node:module';
import { expect, it } from 'vitest';
import { lightenEncoder } from '../../engine/kafka/encoder.ts';
import { Dice } from '../support/dice.ts';

interface Encoded {
  buffer: Buffer;
}
type Encoder = Encoded & { [write: string]: (value: unknown) => Encoder };
type EncoderClass = new () => Encoder;
type Request = (data: object) => { encode(): Promise<Encoded> };

interface Modules {
  Encoder: EncoderClass;
  produce: Request;
}

/** A copy of its own, that no other one's changes reach. */
function modulesAnew(): Modules {
  const require = createRequire(import.meta.url);
  for (const name of Object.keys(require.cache)) {
    if (name.includes('/kafkajs/')) delete require.cache[name];
  }
  return {
    Encoder: require('kafkajs/src/protocol/encoder.js') as EncoderClass,
    produce: require('kafkajs/src/protocol/requests/produce/v3/request.js') as Request,
  };
}

const asItComes = modulesAnew();
const light = modulesAnew();
const isLight = lightenEncoder(light.Encoder as never);

const dice = new Dice(1);
const text = (most: number): string =>
  Array.from({ length: dice.between(0, most) }, () =>
    dice.pick(['a', 'é', '€', '😀', '\ud800', '"']),
  ).join('');

function message(most: number): object {
  const names = Array.from({ length: dice.between(0, 9) }, (_, n) => `h${n}-${text(20)}`);
  return {
    key: dice.pick<unknown>([null, Buffer.from(text(9)), text(most)]),
    value: dice.pick<unknown>([null, Buffer.from(text(most)), text(most)]),
    timestamp: dice.pick<unknown>([1, 1_700_000_000_000 + dice.between(0, 100_000)]),
    headers: Object.fromEntries(
      names.map((name) => [name, dice.pick<unknown>([text(200), [text(9), text(9)]])]),
    ),
  };
}

it.each([3, 100, 5_000, 20_000])('of messages of up to %i characters', async (most) => {
  expect(isLight).toBe(true);
  for (let n = 0; n < 30; n++) {
    const partitions = Array.from({ length: dice.between(1, 3) }, (_, partition) => ({
      partition,
      messages: Array.from({ length: dice.between(1, 6) }, () => message(most)),
    }));
    const data = { acks: -1, timeout: 1_000, topicData: [{ topic: text(30), partitions }] };
    const [heavy, lean] = await Promise.all(
      [asItComes, light].map(async ({ produce }) => (await produce(data).encode()).buffer),
    );
    expect(lean?.equals(heavy ?? Buffer.alloc(0))).toBe(true);
  }
});

it.each([
  ['writeUVarInt', [0, 1, 127, 128, 16_383, 16_384, 2 ** 28, 2 ** 31, 2 ** 32 - 1]],
  ['writeVarInt', [0, -1, 1, 63, 64, -64, -65, 2 ** 31 - 1, -(2 ** 31)]],
])('of numbers by %s, wherever they stand', (write, values) => {
  for (const value of values) {
    for (const before of [0, 58, 59, 60, 62, 63, 64, 65, 127]) {
      const [heavy, lean] = [asItComes, light].map(({ Encoder }) => {
        const encoder = new Encoder();
        encoder['writeBuffer']?.(Buffer.alloc(before, 7));
        return encoder[write]?.(value).buffer.toString('hex');
      });
      expect(lean, `${value} behind ${before}`).toBe(heavy);
    }
  }
});

it('is not in the way of a kafkajs that is built otherwise', () => {
  expect(lightenEncoder(null)).toBe(false);
});
