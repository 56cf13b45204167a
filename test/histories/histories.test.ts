/** Recorded histories go through this build as they went through the one that recorded them; a changed one does not. */
import { describe, expect, test } from 'vitest';
import type { AnyDefinition } from '../../engine/core/define.ts';
import { isCause } from '../../engine/core/evolve.ts';
import { canonicalJson } from '../../engine/core/json.ts';
import { featuresIn, featuresOf } from './features.ts';
import { DEFINITIONS, readRecorded, recordedFiles } from './files.ts';
import { formatHistory, parseHistory, type History } from './format.ts';
import { replayHistory } from './replay.ts';

const files = recordedFiles();
/** Thousands of replays, on a machine that may be busy. */
const TIMEOUT_MS = 120_000;

describe('recorded histories', () => {
  test('there are some of every definition, for each way in which its sagas may go', () => {
    const shown = new Set<string>();
    for (const name of files) {
      const { head, lines } = readRecorded(name);
      const events = lines.map(({ event }) => event);
      const features = featuresIn(head.definition, events);
      expect(features, name).toEqual(expect.arrayContaining(head.covers));
      for (const feature of features) shown.add(`${head.definition}: ${feature}`);
    }
    const wanted = DEFINITIONS.flatMap(({ name }) =>
      featuresOf(name).map((feature) => `${name}: ${feature}`),
    );
    expect(wanted.filter((feature) => !shown.has(feature))).toEqual([]);
  });

  test.each(files)('%s', async (name) => {
    expect(await replayHistory(readRecorded(name), DEFINITIONS)).toEqual([]);
  });
});

describe('a tampered history is caught', () => {
  /** The shortest with a compensation; all the others would show the same. */
  const some = files
    .map((name) => ({ name, history: readRecorded(name) }))
    .filter(({ history }) =>
      history.lines.some(({ event }) => event.type === 'CompensationRequested'),
    )
    .sort((a, b) => a.history.lines.length - b.history.lines.length)
    .slice(0, 2);

  /** Each leaf of a JSON value, changed. */
  function* tampered(value: unknown): Generator {
    if (typeof value === 'string') yield `${value}x`;
    else if (typeof value === 'number') yield value + 1;
    else if (typeof value === 'boolean') yield !value;
    else if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) {
        for (const other of tampered(item)) yield value.with(index, other);
      }
    } else if (typeof value === 'object' && value !== null) {
      for (const [key, item] of Object.entries(value)) {
        for (const other of tampered(item)) yield { ...value, [key]: other };
      }
    }
  }

  test.each(some)(
    '$name: any value of any effect, time or hash',
    { timeout: TIMEOUT_MS },
    async ({ history }) => {
      const unseen: string[] = [];
      let tried = 0;
      for (const [index, line] of history.lines.entries()) {
        const { at, stateHash, event } = line;
        const parts = isCause(event) ? { at, stateHash } : { at, stateHash, event };
        for (const changed of tampered(parts)) {
          const lines = history.lines.with(index, { ...line, ...(changed as object) });
          const problems = await replayHistory({ ...history, lines }, DEFINITIONS);
          if (problems.length === 0)
            unseen.push(`version ${line.version}: ${JSON.stringify(changed)}`);
          tried += 1;
        }
      }
      expect(unseen).toEqual([]);
      // Its time and its hash, at least.
      expect(tried).toBeGreaterThanOrEqual(2 * history.lines.length);
    },
  );

  // A state does not keep all of an input (who asked for a cancel), so a replay can't tell; the digest does.
  test.each(some)('$name: any value in the file', { timeout: TIMEOUT_MS }, ({ history }) => {
    const text = formatHistory(history);
    const rows = text.trimEnd().split('\n');
    let tried = 0;
    for (const [index, row] of rows.entries()) {
      for (const changed of tampered(JSON.parse(row))) {
        const other = `${rows.with(index, canonicalJson(changed)).join('\n')}\n`;
        expect(() => parseHistory(other)).toThrow(/digest|Invalid|expected/i);
        tried += 1;
      }
    }
    // Its version, time, hash and type, at least.
    expect(tried).toBeGreaterThanOrEqual(4 * history.lines.length);
    expect(parseHistory(text)).toEqual(history);
  });

  const cases: [string, (history: History) => History][] = [
    ['an event is missing', (h) => ({ ...h, lines: h.lines.toSpliced(2, 1) })],
    ['the last event is missing', (h) => ({ ...h, lines: h.lines.slice(0, -1) })],
    [
      'two events have changed places',
      (h) => {
        const [first, second] = h.lines.slice(1, 3);
        if (first === undefined || second === undefined) throw new Error('It is too short.');
        return {
          ...h,
          lines: h.lines.toSpliced(1, 2, { ...second, version: 2 }, { ...first, version: 3 }),
        };
      },
    ],
    ['the end is another', (h) => ({ ...h, end: { ...h.end, status: 'running' } })],
    ['the saga is another', (h) => ({ ...h, head: { ...h.head, sagaId: '7' } })],
    ['its version is not known', (h) => ({ ...h, head: { ...h.head, definitionVersion: 9 } })],
  ];
  test.each(cases)('%s', async (_, change) => {
    for (const { history } of some) {
      expect(await replayHistory(change(history), DEFINITIONS)).not.toEqual([]);
    }
  });

  test('its definition does something else under the same version', async () => {
    for (const { history } of some) {
      const others = DEFINITIONS.filter(({ name }) => name !== history.head.definition);
      const impostor = { ...others[0], name: history.head.definition } as AnyDefinition;
      expect(await replayHistory(history, [impostor])).not.toEqual([]);
    }
  });

  test.each(['', '{}\n{}', 'no json\n{}\n{}'])('a file that is none: %j', (text) => {
    expect(() => parseHistory(text)).toThrow(/no JSON|has a head/);
  });
});
