/**
 * Bells between processes: who reads a partition is told at once that there is something, by nobody but who knows its key;
 * and whatever becomes of a bell, messages are found.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { expect, it } from 'vitest';
import { BusBells } from '../../engine/postgres/bus-bells.ts';
import { SILENT_LOG } from '../../engine/postgres/bus-log.ts';
import type { Committed } from '../../engine/postgres/bus-offsets.ts';
import { createPool, Database } from '../../engine/postgres/pool.ts';
import { message } from '../conformance/bus-conformance.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { busRig } from './bus-rig.ts';
import { startProxy } from './proxy.ts';

const rig = busRig();
const { closers, busOfAnotherProcess } = rig;

const nothing = (): void => undefined;

function bells(rung: () => void = nothing): BusBells {
  const made = new BusBells(new Database(rig.pool), SILENT_LOG, { rung, told: nothing });
  closers.push(() => made.close());
  return made;
}

/** Of these partitions, one message each. */
const of = (ids: readonly (number | undefined)[]): Committed[] =>
  ids.map((id) => ({ id: id ?? 0, offset: 0n, key: 'k', headers: {}, value: '1' }));

interface Listener {
  socket: Socket;
  bell: string;
  heard: string[];
}

const KEY = '0123456789abcdef0123456789abcdef';

async function listener(): Promise<Listener> {
  const socket = createSocket('udp4');
  const heard: string[] = [];
  socket.on('message', (said) => heard.push(said.toString()));
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  closers.push(async () => socket.close());
  return { socket, heard, bell: `127.0.0.1 ${socket.address().port} ${KEY}` };
}

/** Partitions of a new topic, each read by a member of its own. */
async function partitions(name: string, readers: readonly { bell: string; alive?: boolean }[]) {
  const bus = busOfAnotherProcess();
  await bus.ensureTopics([{ topic: name, partitions: readers.length }]);
  const { rows } = await rig.pool.query<{ id: number }>(
    'SELECT id FROM sagax.bus_partitions WHERE topic = $1 ORDER BY partition',
    [name],
  );
  for (const [index, { bell, alive = true }] of readers.entries()) {
    await rig.pool.query(
      `INSERT INTO sagax.bus_members (group_name, member, expires_at, bell)
       VALUES ($1, $2, clock_timestamp() + $3 * interval '1 s', $4)`,
      [name, `m${index}`, alive ? 60 : -1, bell],
    );
    await rig.pool.query(
      'INSERT INTO sagax.bus_assignments (group_name, partition_id, owner) VALUES ($1, $2, $3)',
      [name, rows[index]?.id, `m${index}`],
    );
  }
  return rows.map(({ id }) => id);
}

it('is the reason why a reader finds what another process publishes, out of the silence too', async () => {
  const topic = 'rung-for';
  const writer = busOfAnotherProcess();
  await writer.ensureTopics([{ topic, partitions: 2 }]);
  // Where the server looks by itself it finds nothing: only a look that somebody asked for does.
  await rig.pool.query(`
    ALTER FUNCTION sagax.bus_read(int[], bigint[], int[], int, float8, float8, int) RENAME TO bus_read_once;
    CREATE FUNCTION sagax.bus_read(ids int[], froms bigint[], counts int[], max_bytes int, first_ms float8, pause_ms float8, looks int)
      RETURNS TABLE (lane bigint, "offset" bigint, key text, headers text, value text) LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
      IF looks = 1 THEN RETURN QUERY SELECT * FROM sagax.bus_read_once(ids, froms, counts, max_bytes, 0, 0, 1); END IF;
      IF looks > 1 THEN PERFORM pg_sleep(0.5); END IF;
    END $$`);
  closers.push(() =>
    rig.pool.query(`DROP FUNCTION sagax.bus_read;
      ALTER FUNCTION sagax.bus_read_once(int[], bigint[], int[], int, float8, float8, int) RENAME TO bus_read`),
  );
  const recorder = new BusRecorder();
  const subscription = busOfAnotherProcess().subscribe(
    recorder.options({ group: 'g', topics: [topic] }),
  );
  await subscription.ready();
  for (let n = 0; n < 20; n++) {
    await writer.publish([message(topic, n % 2, `${n}`)]);
    await recorder.until(() => recorder.values.length === n + 1);
  }
  expect(recorder.values).toEqual(Array.from({ length: 20 }, (_, n) => `${n}`));
});

it('rings those who read the partitions with messages, not those who are gone, and not itself', async () => {
  let own = 0;
  const mine = bells(() => own++);
  const [one, other, dead] = [await listener(), await listener(), await listener()];
  const ids = await partitions('for-whom', [
    one,
    other,
    { ...dead, alive: false },
    { bell: (await mine.address()) ?? '' },
  ]);
  const [first, second] = ids as [number, number, number, number];
  mine.ring(of([ids[3], ids[2], first, first]));
  await once(one.socket, 'message');
  mine.ring(of([second]));
  await once(other.socket, 'message');
  // On one socket nothing overtakes: whatever was sent before has come.
  mine.ring(of([first]));
  await once(one.socket, 'message');
  expect(one.heard).toEqual([KEY, KEY]);
  expect(other.heard).toEqual([KEY]);
  expect(dead.heard).toEqual([]);
  expect(own).toBe(0);
});

it('does not ring where so much is going on that they look by themselves', async () => {
  const mine = bells();
  const one = await listener();
  const ids = await partitions('busy', [one]);
  mine.ring(of(ids));
  await once(one.socket, 'message');
  const many = Array.from({ length: 100 }, () => ids[0] as number);
  mine.ring(of(many));
  await once(one.socket, 'message');
  for (let n = 0; n < 10; n++) mine.ring(of(many));
  // A second one shows when all of these would have come.
  const other = await listener();
  mine.ring(of(await partitions('beside', [other])));
  await once(other.socket, 'message');
  expect(one.heard).toHaveLength(2);
});

it('hears nobody who does not know its key', async () => {
  const rung = Promise.withResolvers<void>();
  let count = 0;
  const mine = bells(() => {
    count++;
    rung.resolve();
  });
  const [host = '', port = '', key = ''] = ((await mine.address()) ?? '').split(' ');
  const stranger = (await listener()).socket;
  const send = (text: string): Promise<void> =>
    new Promise((resolve) => stranger.send(text, Number(port), host, () => resolve()));
  for (const text of [
    '',
    KEY,
    key.slice(1),
    `${key}0`,
    key.toUpperCase() + key,
    '\0'.repeat(9_000),
  ])
    await send(text);
  await send(key);
  await rung.promise;
  expect(count).toBe(1);
});

it('takes what stands in the table for what it is: a place that may not be one', async () => {
  const mine = bells();
  const one = await listener();
  const rubbish = [
    '',
    'x',
    `127.0.0.1 0 ${KEY}`,
    `127.0.0.1 99999 ${KEY}`,
    `localhost 53 ${KEY}`,
    `127.0.0.1 53 ${KEY.slice(1)}`,
    // Not of this machine, while this process is only known at its loopback address.
    `192.0.2.1 53 ${KEY}`,
    `::1 53 ${KEY}`,
  ];
  const ids = await partitions('rubbish', [...rubbish.map((bell) => ({ bell })), one]);
  mine.ring(of(ids));
  await once(one.socket, 'message');
  expect(one.heard).toEqual([KEY]);
});

it('listens as soon as the database answers', async () => {
  const proxy = await startProxy(rig.database.url);
  const late = createPool({ url: proxy.url, max: 1 });
  const mine = new BusBells(new Database(late), SILENT_LOG, { rung: nothing, told: nothing });
  closers.push(async () => {
    await mine.close();
    await late.end();
    await proxy.close();
  });
  proxy.cutBefore('inet_client_addr');
  expect(await mine.address()).toBeNull();
  proxy.mend();
  expect(await mine.address()).toMatch(/^127\.0\.0\.1 \d+ [0-9a-f]{32} [\w-]{43}$/);
});

it('is silent without a database, and once it is closed', async () => {
  const away = new Database(createPool({ url: 'postgres://nobody@127.0.0.1:1/none', max: 1 }));
  const none = new BusBells(away, SILENT_LOG, { rung: nothing, told: nothing });
  none.ring(of([1, 2, 3]));
  expect(await none.address()).toBeNull();
  await none.close();
  await away.pool.end();
  const mine = bells();
  const one = await listener();
  const ids = await partitions('closed', [one]);
  mine.ring(of(ids));
  await once(one.socket, 'message');
  await mine.close();
  mine.ring(of(ids));
  expect(await mine.address()).toBeNull();
  const other = bells();
  other.ring(of(ids));
  await once(one.socket, 'message');
  expect(one.heard).toHaveLength(2);
});
