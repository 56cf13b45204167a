/**
 * Reads the evidence of a run: the log by SQL, the topics by a plain consumer or by the bus's tables, the
 * participants' inboxes and books.
 *
 * Guards that one snapshot of a database is read, so that what is compared belongs together. Where the log is spread
 * over several, no transaction spans them, and neither does any check but those of what is at rest by then.
 */
import { Admin, Consumer, MessagesStreamModes, stringDeserializers } from '@platformatic/kafka';
import pg from 'pg';
import type { AcceptedInput, Evidence, MessageRow } from './evidence.ts';

/** Schemas of the example services, each with its inbox table. */
const PARTICIPANTS = [
  'inventory',
  'payments',
  'shipping',
  'notifications',
  'airline',
  'hotels',
  'cars',
  'bank_a',
  'bank_b',
] as const;
const READ_LIMIT_MS = 120_000;
const CLIENT = { clientId: 'chaos-checker', retries: 5, timeout: 10_000 };

export interface Sources {
  /** The databases of the log, in their order. The first has the participants and the Postgres bus, too. */
  logUrls: readonly string[];
  /** Null: the bus is in Postgres. */
  brokers: readonly string[] | null;
  topicPrefix: string;
  commandPartitions: number;
  accepted: readonly AcceptedInput[];
}

export async function readEvidence(sources: Sources): Promise<Evidence> {
  const { topicPrefix, commandPartitions, accepted, brokers, logUrls } = sources;
  const logs = await Promise.all(logUrls.map((url) => inSnapshot(url, readLog)));
  const all = <Row>(of: (log: LogTables) => Row[]): Row[] => logs.flatMap(of);
  const first = await inSnapshot(logUrls[0], async (client) => ({
    ...(await readTables(client)),
    messages: brokers === null ? await readBusTables(client) : null,
  }));
  return {
    topicPrefix,
    commandPartitions,
    accepted: [...accepted],
    events: all((log) => log.events),
    sagas: all((log) => log.sagas),
    shards: all((log) => log.shards).sort((a, b) => a.shard - b.shard),
    epochs: all((log) => log.epochs),
    regressions: all((log) => log.regressions),
    wakeups: all((log) => log.wakeups),
    ...first,
    deadLetters: [...all((log) => log.deadLetters), ...first.deadLetters],
    messages: first.messages ?? (await readTopics(brokers ?? [], topicPrefix)),
  };
}

async function inSnapshot<T>(
  url: string | undefined,
  read: (client: pg.Client) => Promise<T>,
): Promise<T> {
  if (url === undefined) throw new Error('There is no database to read the evidence from.');
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const found = await read(client);
    await client.query('COMMIT');
    return found;
  } finally {
    await client.end();
  }
}

/** What each database of a log has of its own shards. */
type LogTables = Pick<
  Evidence,
  'events' | 'sagas' | 'shards' | 'epochs' | 'regressions' | 'wakeups' | 'deadLetters'
>;
/** What there is one of, in the first database; its dead letters are those of the participants. */
type Tables = Omit<
  Evidence,
  | Exclude<keyof LogTables, 'deadLetters'>
  | 'topicPrefix'
  | 'commandPartitions'
  | 'accepted'
  | 'messages'
>;

async function rowsOf<Row>(client: pg.Client, text: string): Promise<Row[]> {
  // bigint as a number: positions, versions and times stay far below 2^53; ids are cast to text.
  const { rows } = await client.query<{ row: Row }>(`SELECT to_jsonb(q) AS row FROM (${text}) q`);
  return rows.map(({ row }) => row);
}

async function readLog(client: pg.Client): Promise<LogTables> {
  const all = <Row>(text: string): Promise<Row[]> => rowsOf(client, text);
  return {
    events: await all(`SELECT saga_id::text AS "sagaId", stream_version AS "streamVersion", shard,
      shard_seq AS "shardSeq", epoch, at_ms AS "atMs", witnessed_at_ms AS "witnessedAtMs", type, event
      FROM sagax.events ORDER BY shard, shard_seq`),
    sagas: await all(`SELECT saga_id::text AS "sagaId", definition, status, state,
      stream_version AS "streamVersion", ended_at_ms AS "endedAtMs", failure_code AS "failureCode",
      business_key AS "businessKey" FROM sagax.sagas ORDER BY saga_id`),
    shards: await all(`SELECT shard, epoch, next_offset AS "nextOffset", next_seq AS "nextSeq",
      published_seq AS "publishedSeq" FROM sagax.shards JOIN sagax.shard_positions USING (shard) ORDER BY shard`),
    epochs: await all(
      'SELECT shard, epoch, from_seq AS "fromSeq" FROM witness.epochs ORDER BY shard, epoch',
    ),
    regressions: await all('SELECT shard, what FROM witness.regressions'),
    wakeups: await all(
      'SELECT saga_id::text AS "sagaId", due_at_ms AS "dueAtMs" FROM sagax.wakeups',
    ),
    deadLetters: await all(
      'SELECT topic, partition, message_offset AS "offset", code, reason FROM sagax.dead_letters',
    ),
  };
}

async function readTables(client: pg.Client): Promise<Tables> {
  const all = <Row>(text: string): Promise<Row[]> => rowsOf(client, text);
  return {
    deadLetters: await all(
      PARTICIPANTS.map(
        (schema) =>
          `SELECT topic, partition, message_offset AS "offset", code, reason FROM ${schema}.sagax_inbox_dead_letters`,
      ).join(' UNION ALL '),
    ),
    nodeIds: await all(
      'SELECT node_id AS "nodeId", last_ms AS "lastMs" FROM sagax.node_ids WHERE last_ms > 0',
    ),
    startKeys: await all(
      `SELECT key, saga_id::text AS "sagaId" FROM sagax.start_keys WHERE kind = 'idempotency'`,
    ),
    effects: await all(
      'SELECT n, service, command_id AS "commandId" FROM witness.effects ORDER BY n',
    ),
    commandRows: await all(
      PARTICIPANTS.map(
        (schema) =>
          `SELECT '${schema}' AS service, command_id AS "commandId", op, state FROM ${schema}.sagax_inbox`,
      ).join(' UNION ALL '),
    ),
    books:
      await all(`SELECT coalesce(o.service, c.service) AS service, coalesce(o.item, c.item) AS item,
      o.total AS opening, c.total AS closing
      FROM witness.opening_books o FULL JOIN witness.books c USING (service, item)`),
  };
}

async function readBusTables(client: pg.Client): Promise<MessageRow[]> {
  const { rows } = await client.query<Omit<MessageRow, 'headers'> & { headers: string }>(
    `SELECT p.topic, p.partition, m."offset"::int AS "offset", m.key, m.headers, m.value
     FROM sagax.bus_messages m JOIN sagax.bus_partitions p ON p.id = m.partition_id
     ORDER BY p.topic, p.partition, m."offset"`,
  );
  return rows.map((row) => ({
    ...row,
    headers: JSON.parse(row.headers) as MessageRow['headers'],
  }));
}

/** Where each topic ends now, by `topic/partition`. */
export async function readEnds(
  sources: Pick<Sources, 'logUrls' | 'brokers' | 'topicPrefix'>,
): Promise<Map<string, number>> {
  const ends = new Map<string, number>();
  if (sources.brokers === null) {
    const rows = await inSnapshot(sources.logUrls[0], (client) =>
      rowsOf<{ place: string; next: number }>(
        client,
        `SELECT topic || '/' || partition AS place, next_offset AS next FROM sagax.bus_partitions`,
      ),
    );
    for (const { place, next } of rows) ends.set(place, next);
    return ends;
  }
  const admin = new Admin({ ...CLIENT, bootstrapBrokers: [...sources.brokers] });
  const consumer = new Consumer({
    ...CLIENT,
    bootstrapBrokers: [...sources.brokers],
    groupId: 'chaos-ends',
  });
  try {
    const topics = await topicsOf(admin, sources.topicPrefix);
    if (topics.length === 0) return ends;
    for (const [topic, offsets] of await consumer.listOffsets({ topics }))
      offsets.forEach((end, partition) => ends.set(`${topic}/${partition}`, Number(end)));
    return ends;
  } finally {
    await consumer.close(true);
    await admin.close();
  }
}

async function topicsOf(admin: Admin, prefix: string): Promise<string[]> {
  return (await admin.listTopics()).filter((topic) => topic.startsWith(`${prefix}.`));
}

/** Reads all topics of the prefix up to where they end now. */
export async function readTopics(
  brokers: readonly string[],
  topicPrefix: string,
): Promise<MessageRow[]> {
  const base = { ...CLIENT, bootstrapBrokers: [...brokers] };
  const admin = new Admin(base);
  const topics = await topicsOf(admin, topicPrefix);
  await admin.close();
  if (topics.length === 0) return [];
  const consumer = new Consumer({
    ...base,
    groupId: `chaos-checker-${process.pid}-${Date.now()}`,
    deserializers: stringDeserializers,
  });
  const found: MessageRow[] = [];
  try {
    const ends = await consumer.listOffsets({ topics });
    const missing = new Map<string, bigint>();
    for (const [topic, offsets] of ends) {
      offsets.forEach((end, partition) => {
        if (end > 0n) missing.set(`${topic}/${partition}`, end);
      });
    }
    if (missing.size === 0) return [];
    const stream = await consumer.consume({ topics, mode: MessagesStreamModes.EARLIEST });
    const limit = setTimeout(() => void stream.close(), READ_LIMIT_MS);
    for await (const message of stream) {
      const { topic, partition, offset, key, value } = message;
      const end = missing.get(`${topic}/${partition}`);
      if (end === undefined) continue;
      const headers = Object.fromEntries(message.headers);
      found.push({ topic, partition, offset: Number(offset), key, headers, value });
      if (offset + 1n >= end) missing.delete(`${topic}/${partition}`);
      if (missing.size === 0) break;
    }
    clearTimeout(limit);
    await stream.close().catch(() => undefined);
    if (missing.size > 0) {
      throw new Error(
        `The topics could not be read to their ends: ${[...missing.keys()].join(', ')}`,
      );
    }
  } finally {
    await consumer.close(true);
  }
  return found.sort(
    (a, b) => a.topic.localeCompare(b.topic) || a.partition - b.partition || a.offset - b.offset,
  );
}
