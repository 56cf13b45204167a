/** docs/ERRORS.md and the table of codes say the same, both ways. */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { statusesOf } from '../../api/problems.ts';
import { ERRORS, type ErrorCode } from '../../engine/core/errors.ts';

const HEADING = '| Code | Kind | HTTP | Meaning | What to do |';

/** Rows of docs/ERRORS.md: code, kind, statuses, meaning, what to do. */
async function documented(): Promise<string[][]> {
  const text = await readFile(new URL('../../docs/ERRORS.md', import.meta.url), 'utf8');
  const lines = text.split('\n').map((line) => line.trim());
  expect(lines.map((line) => line.replace(/ +/g, ' '))).toContain(HEADING);
  return lines
    .filter((line) => line.startsWith('| `'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

describe('docs/ERRORS.md', () => {
  it('has one row for every code, in the order of the table, and no other', async () => {
    const codes = (await documented()).map(([code]) => code?.replaceAll('`', ''));
    expect(codes).toEqual(Object.keys(ERRORS));
  });

  it('gives each its kind, meaning and HTTP statuses as the code has them', async () => {
    for (const [cell, kind, http, meaning, remedy] of await documented()) {
      const code = cell?.replaceAll('`', '') as ErrorCode;
      expect([code, kind], code).toEqual([code, ERRORS[code].kind]);
      expect(meaning, code).toBe(ERRORS[code].summary);
      expect(http, code).toBe(statusesOf(code).join(', ') || '–');
      expect(remedy?.length, `${code} needs a remedy`).toBeGreaterThan(20);
    }
  });
});
