/**
 * The example sagas through separate processes (engine, worker, api) on the Postgres bus, over REST: trips
 * that are taken back, a card whose holder must confirm, transfers whose total never changes.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { auditBanks } from '../../workers/services/bank-audit.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { eventually, startProcess, type SagaxProcess } from './processes.ts';

interface Answer {
  sagaId: string;
  status: string;
  failure: { code: string } | null;
  output: { [name: string]: unknown } | null;
}

describe('examples over processes', { timeout: 120_000 }, () => {
  let database: TestDatabase;
  let api: string;
  const processes: SagaxProcess[] = [];

  beforeAll(async () => {
    database = await testDatabase();
    const env = {
      DATABASE_URL: database.url,
      SAGAX_PORT: '0',
      SAGAX_SHARDS: '4',
      SAGAX_COMMAND_PARTITIONS: '4',
    };
    for (const role of ['api', 'engine', 'worker']) processes.push(startProcess(role, env));
    const [listening] = await Promise.all([
      processes[0]?.line(/"address":"([^"]+)"/),
      processes[1]?.line(/the engine runs/),
      processes[2]?.line(/the workers run/),
    ]);
    api = listening?.[1] ?? '';
  });
  afterAll(async () => {
    for (const one of processes) one.kill('SIGKILL');
    await Promise.all(processes.map(({ ended }) => ended));
    await database?.drop();
  });

  async function post(path: string, body: object): Promise<{ status: number; body: Answer }> {
    const answer = await fetch(`${api}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'wait=30' },
      body: JSON.stringify(body),
    });
    return { status: answer.status, body: (await answer.json()) as Answer };
  }
  const run = async (definition: string, input: object): Promise<Answer> =>
    (await post('/v1/sagas', { definition, input })).body;
  const history = async (
    sagaId: string,
  ): Promise<{ type: string; data: { [name: string]: unknown } }[]> =>
    (
      (await (await fetch(`${api}/v1/sagas/${sagaId}/history`)).json()) as {
        items: { type: string; data: { [name: string]: unknown } }[];
      }
    ).items;

  const trip = (over: object): object => ({
    tripId: 't-1',
    traveller: 'Ann',
    email: 'ann@example.com',
    flight: 'SG100',
    hotel: 'grand',
    city: 'lisbon',
    carClass: 'compact',
    nights: 2,
    amountCents: 50_000,
    card: '4242424242424242',
    ...over,
  });

  test('a trip is booked, and tells of it', async () => {
    const done = await run('trip', trip({}));
    expect(done).toMatchObject({ status: 'completed', output: { outcome: 'completed' } });
    expect((await history(done.sagaId)).map(({ type }) => type)).toContain('DomainEventEmitted');
  });

  test('a trip without a car gives flight and hotel back', async () => {
    const gone = await run('trip', trip({ tripId: 't-2', carClass: 'van' }));
    expect(gone).toMatchObject({ status: 'compensated', output: { outcome: 'cancelled' } });
    // What was done was taken back, each once, and nothing else was.
    const done = new Set<unknown>();
    const back: unknown[] = [];
    for (const { type, data } of await history(gone.sagaId)) {
      const settled = data['settlement'] as { outcome: string } | undefined;
      if (type === 'StepSucceeded') done.add(data['commandId']);
      if (type === 'StepSettled' && settled?.outcome === 'succeeded')
        done.add(String(data['commandId']).slice(0, -2));
      if (type === 'CompensationRequested') back.push(data['of']);
    }
    expect(new Set(back)).toEqual(done);
    expect(back).toHaveLength(done.size);
    const { rows } = await database.pool.query(
      `SELECT (SELECT count(*) FROM airline.bookings WHERE trip_id = 't-2' AND state <> 'cancelled') +
         (SELECT count(*) FROM hotels.stays WHERE trip_id = 't-2' AND state <> 'cancelled') AS kept`,
    );
    expect(rows).toEqual([{ kept: '0' }]);
  });

  test('a card whose holder must confirm: the charge is completed later, over REST', async () => {
    const started = await fetch(`${api}/v1/sagas`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        definition: 'order',
        input: {
          orderId: 'o-9',
          email: 'ann@example.com',
          sku: 'book',
          quantity: 1,
          amountCents: 4_200,
          card: '4000-0000-0000-3220',
          address: {
            name: 'Ann',
            street: 'Way 1',
            city: 'Ulm',
            postalCode: '89073',
            country: 'DE',
          },
        },
      }),
    });
    const { sagaId } = (await started.json()) as Answer;
    const commandId = await eventually('the charge is pending', 20_000, async () => {
      const found = (await history(sagaId)).find(({ type }) => type === 'StepPending');
      return found === undefined ? null : String(found.data['commandId']);
    });
    const completed = await post(`/v1/commands/${commandId}/complete`, {
      outcome: 'succeeded',
      output: { paymentId: `ch_${commandId}` },
    });
    expect(completed.status).toBe(202);
    const result = (await (
      await fetch(`${api}/v1/sagas/${sagaId}/result?wait=30`)
    ).json()) as Answer;
    expect(result).toMatchObject({ status: 'completed', output: { paymentId: `ch_${commandId}` } });
  });

  test('sixty transfers at once, some refused: the total never changes', async () => {
    const before = await auditBanks(database.pool);
    const stop = new AbortController();
    const watching = (async () => {
      while (!stop.signal.aborted) {
        const audit = await auditBanks(database.pool);
        expect([audit.totalCents, audit.accountsOff]).toEqual([before.totalCents, 0]);
      }
    })();
    const results = await Promise.all(
      Array.from({ length: 60 }, (_, index) =>
        run('transfer', {
          transferId: `x-${index}`,
          from: index % 6 === 0 ? 'a-poor' : 'alice',
          to: index % 6 === 1 ? 'b-closed' : 'bob',
          amountCents: 1_000,
          email: 'ann@example.com',
        }),
      ),
    );
    stop.abort();
    await watching;
    expect(results.map(({ status }) => status)).toEqual(
      results.map((_, index) => (index % 6 <= 1 ? 'compensated' : 'completed')),
    );
    const after = await auditBanks(database.pool);
    expect(after).toMatchObject({
      totalCents: before.totalCents,
      inFlightCents: 0,
      accountsOff: 0,
    });
    const { rows } = await database.pool.query(
      `SELECT balance_cents FROM bank_b.accounts WHERE account = 'bob'`,
    );
    expect(rows).toEqual([{ balance_cents: String(40 * 1_000) }]);
  });

  test('each process drains on SIGTERM and exits 0', async () => {
    for (const one of processes) one.kill('SIGTERM');
    expect(await Promise.all(processes.map(({ ended }) => ended))).toEqual([0, 0, 0]);
  });
});
