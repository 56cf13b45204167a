/** What tests of a Postgres bus between processes stand on: a database, and buses of which none knows that it has neighbours. */
import type pg from 'pg';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { createPostgresBus, type PostgresBus } from '../../engine/postgres/bus.ts';
import { createPool } from '../../engine/postgres/pool.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

export interface BusRig {
  /** From the first hook on. */
  readonly database: TestDatabase;
  readonly pool: pg.Pool;
  /** Run after each test, the last one first. */
  readonly closers: (() => Promise<unknown>)[];
  /** Nothing in this process knows that two of these are neighbours: they only share the database. */
  busOfAnotherProcess(): PostgresBus;
}

/** For a whole file; sets its hooks. */
export function busRig(): BusRig {
  let database: TestDatabase;
  let pool: pg.Pool;
  let processes = 0;
  const closers: (() => Promise<unknown>)[] = [];
  beforeAll(async () => {
    database = await testDatabase();
    pool = createPool({ url: database.url, max: 4 });
  });
  afterEach(async () => {
    for (const close of closers.splice(0).toReversed()) await close();
  });
  afterAll(async () => {
    await pool.end();
    await database.drop();
  });
  return {
    get database() {
      return database;
    },
    get pool() {
      return pool;
    },
    closers,
    busOfAnotherProcess: () => {
      const url = `${database.url}?process=${++processes}`;
      const bus = createPostgresBus({ url, leaseMs: 60_000 });
      closers.push(() => bus.close());
      return bus;
    },
  };
}
