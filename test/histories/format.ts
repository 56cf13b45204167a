/**
 * A recorded history: a saga's stream as it was logged, with the hash of the state that was live at each version,
 * as JSON lines: a head, one line an event, the summary at the end with a digest of all that stands above.
 *
 * Guards that what was running once can be read by every later build (I9). Files are never changed by hand: their
 * lines are checked, and their digest tells of any change, also of what a state does not keep.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { SagaEvent } from '../../engine/core/events.ts';
import { canonicalJson } from '../../engine/core/json.ts';

const head = z.strictObject({
  /** Version of this format. */
  history: z.literal(1),
  /** What happens in it that no other history of the definition shows. */
  covers: z.array(z.string()).min(1),
  definition: z.string(),
  definitionVersion: z.int(),
  /** Of the build that recorded it; a later one may have other source text and give the same. */
  definitionHash: z.string(),
  sagaId: z.string(),
  /** The run that it comes from. */
  seed: z.int(),
});
const line = z.strictObject({
  version: z.int(),
  at: z.number(),
  stateHash: z.string().regex(/^[0-9a-f]{64}$/),
  event: z.looseObject({ type: z.string() }),
});
const end = z.strictObject({ end: z.record(z.string(), z.unknown()), digest: z.string() });

export type Head = z.output<typeof head>;
export interface Line {
  version: number;
  /** ms since the epoch */
  at: number;
  /** Of the state after this event. */
  stateHash: string;
  event: SagaEvent;
}
export interface History {
  head: Head;
  lines: readonly Line[];
  /** The summary that was shown at the end. */
  end: object;
}

/** @throws Error saying what is not as it must be */
export function parseHistory(text: string): History {
  const rows = text.trimEnd().split('\n');
  const parsed = rows.map((row, index): unknown => {
    try {
      return JSON.parse(row);
    } catch (error) {
      throw new Error(`Line ${index + 1} is no JSON.`, { cause: error });
    }
  });
  if (parsed.length < 3) throw new Error('A history has a head, events and an end.');
  const history = {
    head: head.parse(parsed[0]),
    lines: parsed.slice(1, -1).map((row) => line.parse(row) as Line),
    end: end.parse(parsed.at(-1)).end,
  };
  if (formatHistory(history) !== text) {
    throw new Error(
      'Its digest is not that of its lines: the file was changed. Take it out of the version control again.',
    );
  }
  return history;
}

export function formatHistory({ head: first, lines, end: last }: History): string {
  const rows = [first, ...lines].map((row) => canonicalJson(row));
  const digest = createHash('sha256')
    .update(`${rows.join('\n')}\n${canonicalJson(last)}`)
    .digest('hex');
  return `${rows.join('\n')}\n${canonicalJson({ end: last, digest })}\n`;
}
