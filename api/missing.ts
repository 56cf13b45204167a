/**
 * What an answer lacks when a part of the log does not answer: one of the databases that it is spread over.
 *
 * Guards that such an answer says so (`missing`), and that nothing of where the databases are gets out.
 */
import { z } from 'zod';
import type { PartOptions } from '../engine/ports-read.ts';

export const missingParts = z
  .array(z.object({ part: z.int(), parts: z.int(), shards: z.array(z.int()) }))
  .optional()
  .describe(
    'Only when a part of the log did not answer: the list lacks what lives on these shards. Ask again later.',
  );

/** Gathers what did not answer to the calls that get its `options`. */
export class Missing {
  readonly #parts = new Map<number, { part: number; parts: number; shards: number[] }>();
  readonly options: PartOptions = {
    onMissing: ({ part, parts, shards }) => {
      this.#parts.set(part, { part, parts, shards: [...shards] });
    },
  };

  /** For the answer; empty when all have answered. */
  get view(): { missing?: { part: number; parts: number; shards: number[] }[] } {
    return this.#parts.size === 0 ? {} : { missing: [...this.#parts.values()] };
  }

  /** `ok`, or which parts are missing, in words. */
  get words(): string {
    if (this.#parts.size === 0) return 'ok';
    const parts = [...this.#parts.values()].map((each) => `part ${each.part} of ${each.parts}`);
    return `ok but for ${parts.join(', ')}`;
  }
}
