/**
 * Keyset cursors: opaque text that holds where a list went on and a hash of its filter.
 *
 * Guards that a cursor is only used with the filter that it came from: pages of one list never get
 * mixed with those of another, they get CURSOR_INVALID.
 */
import { createHash } from 'node:crypto';
import { canonicalJson } from '../engine/core/json.ts';
import { ApiError } from './problems.ts';

function filterHash(filter: unknown): string {
  return createHash('sha256').update(canonicalJson(filter)).digest('hex').slice(0, 16);
}

/** @param lastId id of the last row of the page; the next page holds smaller ones */
export function encodeCursor(lastId: string, filter: unknown): string {
  return Buffer.from(`${lastId}.${filterHash(filter)}`).toString('base64url');
}

/** @returns the id below which the list goes on. @throws ApiError CURSOR_INVALID */
export function decodeCursor(cursor: string | undefined, filter: unknown): string | undefined {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, 'base64url').toString('latin1');
  const match = /^([1-9][0-9]{0,18})\.([0-9a-f]{16})$/.exec(text);
  const lastId = match?.[1];
  if (lastId === undefined || BigInt(lastId) > 9_223_372_036_854_775_807n) {
    throw new ApiError(
      'CURSOR_INVALID',
      'This is not a cursor of this list. Start again without `cursor`.',
    );
  }
  if (match?.[2] !== filterHash(filter)) {
    throw new ApiError(
      'CURSOR_INVALID',
      'The cursor belongs to a list with other filters. Send the filters that it came with, or start again without `cursor`.',
    );
  }
  return lastId;
}
