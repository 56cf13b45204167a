/**
 * Messages that come with the bell: taken as they stand on the bus, from nobody but who can write there; and whatever
 * is wrong with them, no more happens than a look.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { beforeEach, describe, expect, it } from 'vitest';
import { BusBells, type Heard } from '../../engine/postgres/bus-bells.ts';
import { SILENT_LOG } from '../../engine/postgres/bus-log.ts';
import type { Committed } from '../../engine/postgres/bus-offsets.ts';
import type { PostgresBus } from '../../engine/postgres/bus.ts';
import { Database } from '../../engine/postgres/pool.ts';
import { message } from '../conformance/bus-conformance.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { busRig } from './bus-rig.ts';

const rig = busRig();
const { closers, busOfAnotherProcess } = rig;
let topics = 0;

/** Many at once would be looked for anyhow. */
const unhurried = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

describe('between processes', () => {
  /** A process that reads this topic. */
  async function reading(bus: PostgresBus, topic: string): Promise<BusRecorder> {
    const recorder = new BusRecorder();
    const options = recorder.options({ group: `of ${topic}`, topics: [topic] });
    await bus.subscribe(options).ready();
    return recorder;
  }

  /** What looks find is counted; from now on, or later, they find nothing. */
  async function watchLooks(): Promise<void> {
    await rig.pool.query(`
      CREATE TABLE public.looks (found int);
      INSERT INTO public.looks VALUES (0);
      CREATE TABLE public.blind (yes boolean);
      ALTER FUNCTION sagax.bus_read(int[], bigint[], int[], int, float8, float8, int) RENAME TO bus_read_all;
      CREATE FUNCTION sagax.bus_read(ids int[], froms bigint[], counts int[], max_bytes int, first_ms float8, pause_ms float8, looks int)
        RETURNS TABLE (lane bigint, "offset" bigint, key text, headers text, value text) LANGUAGE plpgsql VOLATILE AS $$
        #variable_conflict use_column
      BEGIN
        RETURN QUERY SELECT * FROM sagax.bus_read_all(ids, froms, counts, max_bytes, first_ms, pause_ms, looks)
          WHERE NOT EXISTS (SELECT FROM public.blind);
        IF FOUND THEN UPDATE public.looks SET found = found + 1; END IF;
      END $$`);
    closers.push(() =>
      rig.pool.query(`DROP FUNCTION sagax.bus_read; DROP TABLE public.looks, public.blind;
        ALTER FUNCTION sagax.bus_read_all(int[], bigint[], int[], int, float8, float8, int) RENAME TO bus_read`),
    );
  }

  async function foundByLooks(): Promise<number> {
    const { rows } = await rig.pool.query<{ found: number }>('SELECT found FROM public.looks');
    return rows[0]?.found ?? Number.NaN;
  }

  /** Until they have learnt who reads and who writes, they look. @returns the reader's record */
  async function acquainted(topic: string): Promise<{ writer: PostgresBus; to: BusRecorder }> {
    await watchLooks();
    const [writer, reader] = [busOfAnotherProcess(), busOfAnotherProcess()];
    await writer.ensureTopics([
      { topic, partitions: 2 },
      { topic: `of-writer-${topic}`, partitions: 1 },
    ]);
    await reading(writer, `of-writer-${topic}`);
    const to = await reading(reader, topic);
    let looks = -1;
    for (let n = 0, told = 0; told < 4; n++) {
      await writer.publish([message(topic, n % 2, `before ${n}`)]);
      await to.until(() => to.values.length === n + 1);
      const now = await foundByLooks();
      told = now === looks ? told + 1 : 0;
      looks = now;
      await unhurried();
    }
    return { writer, to };
  }

  it('come without a look, in order, with all that they have', async () => {
    const topic = 'no-look';
    const { writer, to } = await acquainted(topic);
    await rig.pool.query('INSERT INTO public.blind VALUES (true)');
    const before = to.values.length;
    for (let n = 0; n < 10; n++) {
      const large = 'x'.repeat(2_000);
      await writer.publish([message(topic, 0, `${n} "ü" \\`), message(topic, n % 2, large)]);
      await to.until(() => to.values.length === before + 2 * n + 2);
    }
    const { rows } = await rig.pool.query<{
      partition: number;
      offset: string;
      key: string;
      headers: string;
      value: string;
    }>(
      `SELECT p.partition, m."offset", m.key, m.headers, m.value FROM sagax.bus_messages m
         JOIN sagax.bus_partitions p ON p.id = m.partition_id WHERE p.topic = $1 ORDER BY p.partition, m."offset"`,
      [topic],
    );
    const stored = rows.map(({ headers, ...row }) => ({
      topic,
      ...row,
      headers: JSON.parse(headers) as unknown,
    }));
    const got = to.messages.map((each) => ({ ...each, offset: `${each.offset}` }));
    for (const at of [0, 1]) {
      expect(got.filter(({ partition }) => partition === at)).toEqual(
        stored.filter(({ partition }) => partition === at),
      );
    }
  });

  it('are looked for when one is too large for a datagram', async () => {
    const { writer, to } = await acquainted('too-large');
    const before = to.values.length;
    const values = ['small', 'y'.repeat(200_000), 'small too'];
    await writer.publish(values.map((value) => message('too-large', 0, value)));
    await to.until(() => to.values.length === before + 3);
    expect(to.values.slice(before)).toEqual(values);
  });

  it('are looked for behind one that has not come', async () => {
    const topic = 'with-a-gap';
    const { writer, to } = await acquainted(topic);
    const before = to.values.length;
    // Of somebody who tells nobody; not a look comes between.
    const untold = `WITH p AS (UPDATE sagax.bus_partitions SET next_offset = next_offset + 1
        WHERE topic = '${topic}' AND partition = 0 RETURNING id, next_offset)
      INSERT INTO sagax.bus_messages (partition_id, "offset", key, headers, value)
      SELECT id, next_offset - 1, 'k', '{}', 'untold' FROM p`;
    await rig.pool.query(`INSERT INTO public.blind VALUES (true); ${untold}`);
    await writer.publish([message(topic, 0, 'told')]);
    await rig.pool.query('DELETE FROM public.blind');
    await to.until(() => to.values.length === before + 2);
    expect(to.values.slice(before)).toEqual(['untold', 'told']);
  });
});

describe('a process is told', () => {
  let told: Committed[];
  let rings: number;
  let changed: () => void;
  let receiver: BusBells;
  let place: { host: string; port: number; key: string };
  let partition: number;
  /** What has come to a socket that stands between, as the wire has it. */
  let tapped: Buffer[];
  let tap: Socket;
  let replaced: string;

  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>((resolve) => (changed = resolve));
  };

  const deaf: Heard = { rung: () => undefined, told: () => undefined };

  function bells(heard = deaf): BusBells {
    const one = new BusBells(new Database(rig.pool), SILENT_LOG, heard);
    closers.push(() => one.close());
    return one;
  }

  const messages = (...values: string[]): Committed[] =>
    values.map((value, index) => ({
      id: partition,
      offset: BigInt(index),
      key: 'k',
      headers: { a: 'b' },
      value,
    }));

  async function member(name: string, bell: string | null): Promise<void> {
    await rig.pool.query(
      `INSERT INTO sagax.bus_members (group_name, member, expires_at, bell) VALUES ('told', $1, clock_timestamp() + interval '1 h', $2)`,
      [name, bell],
    );
  }

  beforeEach(async () => {
    told = [];
    rings = 0;
    changed = () => undefined;
    tapped = [];
    receiver = bells({
      rung: () => {
        rings++;
        changed();
      },
      told: (more) => {
        told.push(...more);
        changed();
      },
    });
    const [host = '', port = '', key = '', publicKey = ''] =
      (await receiver.address())?.split(' ') ?? [];
    place = { host, port: Number(port), key };
    tap = createSocket('udp4');
    tap.bind(0, '127.0.0.1');
    await once(tap, 'listening');
    closers.push(async () => void tap.close());
    tap.on('message', (datagram) => {
      tapped.push(datagram);
      changed();
    });
    replaced = `127.0.0.1 ${tap.address().port} ${key} ${publicKey}`;
    const topic = `told-${++topics}`;
    await busOfAnotherProcess().ensureTopics([{ topic, partitions: 1 }]);
    const { rows } = await rig.pool.query<{ id: number }>(
      'SELECT id FROM sagax.bus_partitions WHERE topic = $1',
      [topic],
    );
    partition = rows[0]?.id ?? 0;
    // Who sends to the receiver sends to the tap, which passes on what the test wants.
    await member('receiver', replaced);
    await rig.pool.query(
      `INSERT INTO sagax.bus_assignments (group_name, partition_id, owner) VALUES ('told', $1, 'receiver')`,
      [partition],
    );
    closers.push(() => rig.pool.query(`DELETE FROM sagax.bus_members WHERE group_name = 'told'`));
    closers.push(() =>
      rig.pool.query(`DELETE FROM sagax.bus_assignments WHERE group_name = 'told'`),
    );
  });

  const pass = (datagram: Buffer): void => tap.send(datagram, place.port, place.host);

  /** A sender that knows where to send. */
  async function sender(): Promise<BusBells> {
    const one = bells();
    one.isMember = true;
    one.ring(messages('first'));
    // The first time it did not know yet who reads, and only rings.
    await until(() => tapped.length === 1);
    tapped.length = 0;
    return one;
  }

  async function sealed(from: BusBells, ...values: string[]): Promise<Buffer> {
    from.ring(messages(...values));
    await until(() => tapped.length > 0);
    return tapped.splice(0)[0] as Buffer;
  }

  /** A sender that the receiver has come to believe, which takes a second after it has asked for another. */
  async function believed(): Promise<BusBells> {
    const from = await sender();
    await member('sender', await from.address());
    told = [];
    for (rings = 0; told.length === 0;) {
      const before = rings;
      pass(await sealed(from, 'hello'));
      await until(() => told.length > 0 || rings > before);
      await unhurried();
    }
    told = [];
    rings = 0;
    return from;
  }

  it('by who stands among the members', async () => {
    const from = await believed();
    const datagram = await sealed(from, 'one', 'two "ü"');
    expect(datagram.includes('two')).toBe(false);
    pass(datagram);
    await until(() => told.length === 2);
    expect(told).toEqual(messages('one', 'two "ü"'));
    expect(rings).toBe(0);
  });

  it('by nobody else: a stranger only rings, however often', async () => {
    const from = await sender();
    for (let n = 0; n < 5; n++) {
      pass(await sealed(from, 'forged'));
      await until(() => rings === n + 1);
    }
    const other = await believed();
    pass(await sealed(from, 'forged'));
    pass(await sealed(other, 'true'));
    await until(() => told.length === 1);
    expect(told).toEqual(messages('true'));
  });

  it('nothing by one who only has read who is a member', async () => {
    const from = await believed();
    const text = (await from.address()) ?? '';
    const stolen = Buffer.from(text.split(' ')[3] ?? '', 'base64url');
    const own = await sealed(await sender(), 'forged');
    // The public key of one who is believed, with a seal of one's own.
    stolen.copy(own, 32);
    pass(own);
    await until(() => rings === 1);
    expect(told).toEqual([]);
  });

  it('nothing that was changed on the way, or cut', async () => {
    const whole = await sealed(await believed(), 'whole');
    const changes = [32 + 32, 32 + 40, 32 + 45, whole.length - 20, whole.length - 1];
    const spoilt = changes.map((at) => {
      const one = Buffer.from(whole);
      one[at] = (one[at] ?? 0) ^ 1;
      return one;
    });
    for (const [n, one] of [...spoilt, whole.subarray(0, -1)].entries()) {
      pass(one);
      await until(() => rings === n + 1);
    }
    expect(told).toEqual([]);
    pass(whole);
    await until(() => told.length === 1);
  });

  it('nothing at all by what is shorter than a seal, or has another key before it', async () => {
    const from = await believed();
    const whole = await sealed(from, 'whole');
    pass(whole.subarray(0, 32 + 20));
    const other = Buffer.from(whole);
    other.write('0123456789abcdef0123456789abcdef');
    pass(other);
    pass(whole);
    await until(() => told.length === 1);
    expect(rings).toBe(0);
  });

  it('only that there is something, by one who is no member itself', async () => {
    const from = await sender();
    from.isMember = false;
    expect((await sealed(from, 'x')).toString()).toBe(place.key);
  });

  it('only that there is something, when it is one of before', async () => {
    await rig.pool.query(`UPDATE sagax.bus_members SET bell = $1 WHERE member = 'receiver'`, [
      replaced.split(' ').slice(0, 3).join(' '),
    ]);
    expect((await sealed(await sender(), 'x')).toString()).toBe(place.key);
  });

  it('only that there is something, when what stands in its row is no key', async () => {
    await rig.pool.query(`UPDATE sagax.bus_members SET bell = $1 WHERE member = 'receiver'`, [
      `${replaced.split(' ').slice(0, 3).join(' ')} AAAA`,
    ]);
    expect((await sealed(await sender(), 'x')).toString()).toBe(place.key);
  });
});
