/**
 * The first start on an empty database, with each failure of the wire at each statement of it.
 *
 * Guards that whatever is left half done by a start that failed, the next start makes whole: tables, partitions,
 * shards and the participant's inbox come out as in a start that nothing disturbed. Statements of later life meet the
 * same failures in the chaos campaign `sqlstates`, where these do not come again.
 */
import pg from 'pg';
import { beforeAll, describe, expect, test } from 'vitest';
import { openPostgres } from '../../engine/postgres/index.ts';
import { postgresStore } from '../../workers/postgres/store.ts';
import { FAILURES } from '../chaos/wire/coverage.ts';
import { PgProxy, type Fault } from '../support/pg-proxy.ts';
import { testDatabase } from '../support/postgres.ts';

const SHARDS = 4;
/** Starts until one succeeds, as a supervisor would; one that meets nothing more must. */
const MOST_STARTS = 3;
const AT_ONCE = 4;
/** Of the seven failures, each statement meets as many, beginning at another one each; FIRST_START_FAILURES=7: all. */
const PER_STATEMENT = Number(process.env['FIRST_START_FAILURES'] ?? 1);

const STARTS: { readonly [what: string]: (url: string) => Promise<void> } = {
  'engine or API': async (url) => {
    const ports = await openPostgres({ url, shards: SHARDS });
    try {
      await ports.maintain();
    } finally {
      await ports.close();
    }
  },
  worker: async (url) => {
    const pool = new pg.Pool({ connectionString: url, max: 2 });
    pool.on('error', () => undefined);
    try {
      await postgresStore({ pool, schema: 'shop' }).start();
    } finally {
      await pool.end();
    }
  },
};

/** What there is in a database, in words that do not depend on when it was made. */
const RELATIONS_SQL = `
  SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text || coalesce(' in ' || parent.relname, '') AS what
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class parent ON parent.oid = i.inhparent
   WHERE n.nspname IN ('sagax', 'shop')
  UNION ALL
  SELECT p.proname || ' function' FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'sagax'
   ORDER BY 1`;

async function relationsOf(url: string): Promise<string[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ what: string }>(RELATIONS_SQL);
    return rows.map(({ what }) => what);
  } finally {
    await client.end();
  }
}

/** Starts until it succeeds, the first time with the failure. @returns what there is then, or why there is nothing */
async function startWith(
  start: (url: string) => Promise<void>,
  at: { label: string; fault: Fault } | null,
): Promise<{ relations: string[]; labels: string[]; met: boolean; starts: number }> {
  const database = await testDatabase({ empty: true });
  const proxy = await PgProxy.start(database.url);
  let met = false;
  proxy.plan = ({ label }) => {
    if (met || label !== at?.label) return null;
    met = true;
    return at.fault;
  };
  try {
    for (let starts = 1; ; starts += 1) {
      try {
        await start(proxy.url);
        const labels = [...proxy.statements.keys()];
        return { relations: await relationsOf(database.url), labels, met, starts };
      } catch (error) {
        if (starts === MOST_STARTS) throw error;
      }
    }
  } finally {
    await proxy.close();
    await database.drop();
  }
}

describe.each(Object.entries(STARTS))('the first start of %s', (_what, start) => {
  let whole: Awaited<ReturnType<typeof startWith>>;
  beforeAll(async () => {
    whole = await startWith(start, null);
  });

  test('needs one start when nothing fails', () => {
    expect(whole.starts).toBe(1);
    expect(whole.relations.length).toBeGreaterThan(3);
    expect(whole.labels.length).toBeGreaterThan(5);
  });

  test(`ends whole after ${PER_STATEMENT} of the failures at each of its statements`, async () => {
    const names = Object.keys(FAILURES);
    const left = whole.labels.flatMap((label, index) =>
      Array.from({ length: PER_STATEMENT }, (_, n) => ({
        label,
        name: names[(index + n) % names.length] as string,
      })),
    );
    const one = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        const { label, name } = next;
        const { relations, met } = await startWith(start, {
          label,
          fault: FAILURES[name] as Fault,
        });
        expect.soft(met, `${name} at ${label}`).toBe(true);
        expect.soft(relations, `${name} at ${label}`).toEqual(whole.relations);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
  }, 400_000);
});
