/**
 * Texts that break what is put together carelessly: SQL, jsonb paths, LIKE, templates, headers, logs, prototypes.
 *
 * Guards that there are as many different ones as are asked for, the same at each run: seeds × wrappings.
 */

const SEEDS = [
  "' OR '1'='1",
  "' OR 1=1 --",
  "'; DROP TABLE sagax.events; --",
  "'; SELECT pg_sleep(10); --",
  "\\'; COPY (SELECT 1) TO PROGRAM 'id'; --",
  "' UNION SELECT NULL, version(), NULL --",
  '" OR ""="',
  '1; SELECT 1',
  '1)) OR ((1=1',
  '$1',
  '$$; SELECT 1; $$',
  '%27%20OR%201%3D1',
  "admin'--",
  "' AND extractvalue(1, concat(0x7e, version())) --",
  "'||(SELECT 1)||'",
  "' || pg_sleep(5) || '",
  "E'\\\\x27'",
  "U&'\\0027'",
  '{"$gt":""}',
  '{"$where":"1"}',
  "a' @> '{}'::jsonb --",
  '{a,b,c}',
  "'::jsonb",
  '%',
  '_%_%_%',
  '\\',
  '\\\\',
  "'",
  '"',
  '`',
  '--',
  '/*',
  '*/',
  '/**/OR/**/1=1',
  ';',
  'NULL',
  'true',
  'NaN',
  '__proto__',
  'constructor',
  'constructor.prototype.polluted',
  '__proto__[polluted]=1',
  '{"__proto__":{"polluted":1}}',
  'prototype',
  'toString',
  'hasOwnProperty',
  '${7*7}',
  '{{7*7}}',
  '<%= 7*7 %>',
  '#{7*7}',
  '${jndi:ldap://127.0.0.1/a}',
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  'javascript:alert(1)',
  '../../etc/passwd',
  '..%2f..%2fetc%2fpasswd',
  '%00',
  '%0d%0aset-cookie:a=b',
  'file:///etc/passwd',
  '| id',
  '; id',
  '`id`',
  '$(id)',
  '&& id',
  '\u202e',
  '\ufeff',
  '\u2028',
  'ʼ OR 1=1',
  '＇ OR 1=1 --',
  "\u00bf'",
  "😀' OR 1=1",
  '9223372036854775808',
  '-1',
  '1e309',
  '0x27',
  '1/0',
  'infinity',
  '9'.repeat(64),
] as const;

const WRAPPINGS: readonly ((text: string, n: number) => string)[] = [
  (text) => text,
  (text, n) => `${n}${text}`,
  (text, n) => `${text}${n}`,
  (text, n) => `'${text}'/*${n}*/`,
  (text, n) => `") ${text} ("${n}`,
  (text, n) => `x'||${text}||'${n}`,
  (text, n) => encodeURIComponent(`${text}${n}`),
  (text, n) => `${text}\t${n} ${text}`,
  (text, n) => `{"a":"${text}","n":${n}}`,
  (text, n) => Buffer.from(`${text}${n}`).toString('base64url'),
];

/** @returns `count` texts, each of them once */
export function injections(count: number): string[] {
  const found = new Set<string>();
  for (let n = 0; found.size < count; n++) {
    const seed = SEEDS[n % SEEDS.length] ?? '';
    const round = Math.floor(n / SEEDS.length);
    found.add((WRAPPINGS[round % WRAPPINGS.length] ?? String)(seed, round));
  }
  return [...found];
}

/** Words of a database, a driver or a runtime that no caller is to see. */
export const INNER_WORDS =
  /syntax error|pg_catalog|relation "|column "|unterminated|invalid input syntax|SQLSTATE|node_modules|\bat \S+ \(|ECONN|TypeError|RangeError/;
