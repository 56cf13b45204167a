/** What failures of Postgres mean, and that values come back from jsonb as they went in; no server needed. */
import { describe, expect, test } from 'vitest';
import { CommitUnknownError, SagaxError } from '../../engine/core/errors.ts';
import { mapError, retryConflicts, sqlState } from '../../engine/postgres/pool.ts';
import { fromJsonb, toId, toJsonb } from '../../engine/postgres/rows.ts';

const pgError = (code: string): Error => Object.assign(new Error(`pg says ${code}`), { code });

describe('mapError', () => {
  test.each(['08006', '57P01', '57P02', '57P03', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT'])(
    '%s: a write is unknown, a read is to be done again',
    (code) => {
      expect(mapError(pgError(code), 'write')).toBeInstanceOf(CommitUnknownError);
      expect(mapError(pgError(code), 'repeatable')).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    },
  );

  test.each(['Connection terminated unexpectedly', 'Query read timeout'])(
    'pg without a code: %s',
    (message) => {
      expect(mapError(new Error(message), 'write')).toBeInstanceOf(CommitUnknownError);
      expect(mapError(new Error(message), 'repeatable')).toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
      });
    },
  );

  test.each(['28P01', '28000', '3D000'])('%s: a setting is wrong, and is named', (code) => {
    const error = mapError(pgError(code), 'write');
    expect(error).toMatchObject({ code: 'CONFIG_INVALID' });
    expect((error as Error).message).toContain('DATABASE_URL');
  });

  test('what pg refuses to send was not written', () => {
    const error = mapError(
      new Error('Client has encountered a connection error and is not queryable'),
      'write',
    );
    expect(error).toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(error).not.toBeInstanceOf(CommitUnknownError);
  });

  test.each(['53300', '53100', '57014', '40001', '40P01', '55P03', '25006', '25P02'])(
    '%s: rolled back by the server, may work later',
    (code) => {
      expect(mapError(pgError(code), 'write')).toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
        kind: 'retryable',
      });
    },
  );

  test('a defect stays what it is, and ours are not wrapped twice', () => {
    const defect = pgError('42601');
    expect(mapError(defect, 'write')).toBe(defect);
    const ours = new SagaxError('FENCED', 'x');
    expect(mapError(ours, 'write')).toBe(ours);
    expect(sqlState(mapError(pgError('40001'), 'write'))).toBe('40001');
    expect(sqlState(pgError('EPIPE'))).toBe(null);
    expect(sqlState(undefined)).toBe(null);
  });
});

describe('retryConflicts', () => {
  test('tries again on a conflict, gives up after four, and never on anything else', async () => {
    let calls = 0;
    const fail = (code: string, times: number) => async () => {
      calls += 1;
      if (calls <= times) throw pgError(code);
      return 'done';
    };
    expect(await retryConflicts(fail('40P01', 2))).toBe('done');
    expect(calls).toBe(3);
    calls = 0;
    await expect(retryConflicts(fail('40001', 99))).rejects.toMatchObject({ code: '40001' });
    expect(calls).toBe(4);
    calls = 0;
    await expect(retryConflicts(fail('23505', 99))).rejects.toMatchObject({ code: '23505' });
    expect(calls).toBe(1);
  });
});

describe('rows', () => {
  test('toJsonb gives one line that jsonb takes, and fromJsonb gives the value back', () => {
    for (const value of [
      null,
      1.5,
      'a\nb',
      { a: ['ü', '\u2028'] },
      '\0',
      { k: '\ud800' },
      { '$sagax.json': 1 },
      { '$sagax.json': '1' },
      { '$sagax.json': '1', b: 2 },
      '\\u0000',
    ]) {
      const text = toJsonb(value);
      expect(text).not.toMatch(/\n/);
      expect(text).not.toMatch(/(?<!\\)(\\\\)*\\u(0000|d[89a-f])/);
      expect(fromJsonb(JSON.parse(text))).toEqual(value);
    }
    expect(toJsonb(undefined)).toBe('null');
  });

  test('toId takes what can be an id, and nothing else', () => {
    expect(toId('9223372036854775807')).toBe('9223372036854775807');
    for (const text of [
      '',
      '0',
      '01',
      '-1',
      '1.0',
      '1e3',
      ' 1',
      '9223372036854775808',
      '99999999999999999999',
    ]) {
      expect(toId(text)).toBeNull();
    }
  });
});
