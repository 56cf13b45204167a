/**
 * A value against a schema that an author wrote, and the words for what an author's code threw.
 *
 * Guards that a schema which throws (a refinement with a bug, an async one) is a misfit that can be shown, never
 * an error that leaves the core; and that those words can be kept in an event, whatever they are.
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
      : { misfit: wordsOf(`${where} does not fit: ${parsed.error.message}`) };
  } catch (error) {
    return { misfit: wordsOf(error) };
  }
}

/** The same for a value that is kept as it was given. @returns null, or why it does not fit */
export function misfitOf(schema: z.ZodType, value: unknown, where: string): string | null {
  try {
    const { error } = schema.safeParse(value);
    return error === undefined ? null : wordsOf(`${where} does not fit: ${error.message}`);
  } catch (error) {
    return wordsOf(error);
  }
}

/** Longest text kept of an error: what a person reads, and zod's texts grow with the value. */
const MAX_WORDS = 4_000;

/** Anything that was thrown, or a text, as words that jsonb can hold. Never throws. */
export function wordsOf(thrown: unknown): string {
  let words: string;
  try {
    words = thrown instanceof Error ? thrown.message : String(thrown);
  } catch {
    words = 'something that has no words';
  }
  return words.slice(0, MAX_WORDS).replaceAll('\0', '\uFFFD').toWellFormed();
}
