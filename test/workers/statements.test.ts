/** What is told from the text of a handler's statement: what ends its transaction, and what changes it for others. */
import { describe, expect, test } from 'vitest';
import { endsTransaction, leavesTraces } from '../../workers/postgres/statements.ts';

const PREFIXES = [
  '',
  ' \n',
  '/* tenant 7 */ ',
  '/* one /* in another */ ; */\n',
  '-- name: CloseTenant :exec\n',
  "-- it's a note\r\n/**/",
  'SELECT 1; ',
  "SELECT 'a;''b' AS \"c;d\"; -- two\n",
  "SELECT E'it\\'s ''so'';'; ",
  'SELECT $$ ; $x$ ; $$, $tag$ $$ ; $tag$, $1; ',
  ';',
];
/** What the check says about a statement behind each of them. */
const behind = (check: (text: string) => boolean, statement: string): object =>
  Object.fromEntries(PREFIXES.map((prefix) => [prefix, check(prefix + statement)]));
const always = (said: boolean): object =>
  Object.fromEntries(PREFIXES.map((prefix) => [prefix, said]));

describe('what ends the transaction', () => {
  test.each([
    'COMMIT',
    'commit;',
    'End',
    'abort',
    'BEGIN',
    'start /* a */ transaction',
    'ROLLBACK',
    'ROLLBACK AND CHAIN',
    "PREPARE TRANSACTION 'x'",
  ])('%s', (statement) => {
    expect(behind(endsTransaction, statement)).toEqual(always(true));
  });

  test.each([
    'SELECT 1',
    'SAVEPOINT mine',
    'ROLLBACK TO mine',
    'rollback work to savepoint mine',
    'PREPARE plan AS SELECT 1',
    "INSERT INTO notes VALUES ('; COMMIT')",
    "INSERT INTO notes VALUES (E'\\'; COMMIT')",
    "INSERT INTO notes VALUES ('it''s done; COMMIT') -- ; COMMIT",
    'SELECT $$; COMMIT$$, $a1$; $$ COMMIT $a1$',
    'SELECT "; commit" FROM t /* ; /* COMMIT; */ ; ABORT */',
    "INSERT INTO notes VALUES ('never closed; COMMIT",
    '/* never closed; COMMIT',
    'SELECT $$ never closed; COMMIT',
  ])('not %s', (statement) => {
    expect(behind(endsTransaction, statement)).toEqual(always(false));
  });
});

describe('what is left for the next handler', () => {
  test.each([
    "SET LOCAL app.tenant = '7'",
    'set/* it */local role accounting',
    'RESET ALL',
    'DISCARD TEMP',
    "SELECT set_config('app.tenant', $1, true)",
    'CREATE TEMP TABLE seen (id int)',
    'CREATE TABLE pg_temp.seen (id int)',
    "DO $$ BEGIN SET LOCAL app.tenant = '7'; END $$",
  ])('%s', (statement) => {
    expect(behind(leavesTraces, statement)).toEqual(always(true));
  });

  test.each([
    'SELECT 1',
    'UPDATE seats SET taken = true WHERE id = $1',
    "INSERT INTO notes VALUES ('; SET LOCAL role a') -- ; RESET ALL",
    'SELECT temperature, done FROM settings',
  ])('not %s', (statement) => {
    expect(behind(leavesTraces, statement)).toEqual(always(false));
  });
});
