/** Migrations: once each under concurrent starts, frozen once applied, newer schemas refused or tolerated. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from 'vitest';
import { openPostgres } from '../../engine/postgres/index.ts';
import {
  checkSchema,
  migrate,
  readMigrations,
  type Migration,
} from '../../engine/postgres/migrate.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

let db: TestDatabase;
let mine: Migration[];
beforeAll(async () => {
  mine = await readMigrations();
});
beforeEach(async () => {
  db = await testDatabase({ empty: true });
});
afterEach(() => db.drop());

const made = (number: number, sql: string, breaking = false): Migration => ({
  number,
  name: `${String(number).padStart(4, '0')}_made`,
  sql,
  checksum: `sum of ${sql}`,
  breaking,
});
const applied = async (): Promise<string[]> =>
  (
    await db.pool.query<{ name: string }>('SELECT name FROM sagax.migrations ORDER BY number')
  ).rows.map(({ name }) => name);

test('five processes that start at once: each file is applied once', async () => {
  const got = await Promise.all(Array.from({ length: 5 }, () => migrate({ url: db.url })));
  const names = mine.map(({ name }) => name);
  expect(got.flat().sort()).toEqual(names);
  expect(await applied()).toEqual(names);
  expect(await migrate({ url: db.url })).toEqual([]);
  const ports = await Promise.all(
    Array.from({ length: 5 }, () => openPostgres({ url: db.url, shards: 4 })),
  );
  expect(await ports[0]?.reader.shards()).toHaveLength(4);
  await Promise.all(ports.map((each) => each.close()));
});

test('a file that fails leaves nothing of itself, and the ones before it stand', async () => {
  const migrations = [
    made(1, 'CREATE TABLE sagax.one ()'),
    made(2, 'CREATE TABLE sagax.two (); SELECT 1/0'),
  ];
  await expect(migrate({ url: db.url, migrations })).rejects.toThrow(/division by zero/);
  expect(await applied()).toEqual(['0001_made']);
  const { rows } = await db.pool.query(
    `SELECT to_regclass('sagax.two') AS two, to_regclass('sagax.one') IS NOT NULL AS one`,
  );
  expect(rows).toEqual([{ two: null, one: true }]);
  migrations[1] = made(2, 'CREATE TABLE sagax.two ()');
  expect(await migrate({ url: db.url, migrations })).toEqual(['0002_made']);
});

test('an applied file that was changed is refused', async () => {
  await migrate({ url: db.url, migrations: [made(1, 'SELECT 1')] });
  await expect(migrate({ url: db.url, migrations: [made(1, 'SELECT 2')] })).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(/0001_made was changed after it was applied/) as string,
  });
});

describe('an older engine', () => {
  test('refuses a database with a newer breaking migration, naming both', async () => {
    await migrate({ url: db.url });
    await migrate({ url: db.url, migrations: [...mine, made(9_001, 'SELECT 1', true)] });
    const error = {
      code: 'SCHEMA_NEWER',
      message: expect.stringMatching(/9001_made.*up to \d{4}/) as string,
    };
    await expect(migrate({ url: db.url })).rejects.toMatchObject(error);
    await expect(checkSchema(db.pool)).rejects.toMatchObject(error);
    await expect(openPostgres({ url: db.url })).rejects.toMatchObject(error);
  });

  test('lives with a newer one that is not breaking', async () => {
    await migrate({ url: db.url });
    await migrate({ url: db.url, migrations: [...mine, made(9_001, 'SELECT 1')] });
    expect(await migrate({ url: db.url })).toEqual([]);
    await checkSchema(db.pool);
  });
});

test('without leave to migrate, what is missing is named', async () => {
  await expect(openPostgres({ url: db.url, migrate: false })).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(/lacks the migrations 0001_event_log/) as string,
  });
});

test('a database that may lose acknowledged commits is refused', async () => {
  await db.pool.query(`ALTER DATABASE ${db.name} SET synchronous_commit = off`);
  await expect(openPostgres({ url: db.url })).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(/synchronous_commit/) as string,
  });
});

describe('migration files', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sagax-migrations-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test('have a number, a name, a header that says whether they break, and no number twice', async () => {
    const put = (name: string, text: string) => writeFile(join(folder, name), text);
    await put('0001_first.sql', '-- breaking: true\r\nSELECT 1;\r\n');
    const [first] = await readMigrations(folder);
    expect(first).toMatchObject({ number: 1, name: '0001_first', breaking: true });
    await put('0001_first.sql', '-- breaking: true\nSELECT 1;\n');
    expect((await readMigrations(folder))[0]?.checksum).toBe(first?.checksum);
    await put('0001_again.sql', '-- breaking: false');
    await expect(readMigrations(folder)).rejects.toThrow(/Two migrations have the number 1/);
    await put('0001_again.sql', 'SELECT 1');
    await expect(readMigrations(folder)).rejects.toThrow(/0001_again.sql has no line "-- breaking/);
    await rm(join(folder, '0001_again.sql'));
    await put('notes.txt', '');
    await expect(readMigrations(folder)).rejects.toThrow(/notes.txt is not named/);
  });

  test("this engine's are well-formed, and each says its lock order", () => {
    expect(mine[0]?.name).toBe('0001_event_log');
    for (const { sql, name } of mine) expect(sql, name).toMatch(/-- .*[Ll]ock order/);
  });
});
