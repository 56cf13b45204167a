/**
 * A value against a schema that an author wrote.
 *
 * Guards that a schema which throws (a refinement with a bug, an async one) is a misfit that can be shown, and
 * never an error that leaves the core.
 */
import type { z } from 'zod';
import { toJson, type Json } from './json.ts';

/**
 * @param where what the value is, to begin a sentence with: `The answer`
 * @returns the parsed value as plain JSON, or why it does not fit
 */
export function fit(
  schema: z.ZodType,
  value: unknown,
  where: string,
): { data: Json } | { misfit: string } {
  try {
    const parsed = schema.safeParse(value);
    return parsed.success
      ? { data: toJson(parsed.data, where) }
      : { misfit: `${where} does not fit: ${parsed.error.message}` };
  } catch (error) {
    return { misfit: error instanceof Error ? error.message : String(error) };
  }
}
