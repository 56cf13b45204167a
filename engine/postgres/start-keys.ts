/**
 * `StartKeys` on Postgres: unique keys that name a start; whoever inserts first has them.
 *
 * Guards that a start repeated by an impatient client, or by many at once, makes one saga. Both keys of a
 * reservation are taken by one INSERT, so a clash on either leaves none behind.
 */
import { createHash } from 'node:crypto';
import { SagaxError } from '../core/errors.ts';
import type { StartKeys } from '../ports-read.ts';
import { sqlState, type Database } from './pool.ts';
import { toText } from './rows.ts';

type Reservation = Parameters<StartKeys['reserve']>[0];
type Kind = 'idempotency' | 'business';
interface Holder {
  kind: Kind;
  saga_id: string;
  fingerprint: string;
}

/** An index row holds at most 2,704 bytes; a longer key is kept by its hash. */
const MAX_KEY_BYTES = 1_024;
/** Each round loses to another reservation that then stands; only keys that vanish could ask for more. */
const MAX_ROUNDS = 5;

export function postgresStartKeys(db: Database): StartKeys {
  return {
    reserve: async (reservation) => {
      const keys = keysOf(reservation);
      if (keys.length === 0) return { sagaId: reservation.sagaId, fresh: true };
      for (let round = 0; round < MAX_ROUNDS; round++) {
        if (await insert(db, reservation, keys, reservation.sagaId)) {
          return { sagaId: reservation.sagaId, fresh: true };
        }
        const winner = winnerOf(reservation, await holders(db, reservation, keys));
        if (winner === null) continue;
        const missing = keys.filter(({ kind }) => !winner.kinds.has(kind));
        // A second key for the saga of the first: from now on both lead to it.
        if (missing.length > 0 && !(await insert(db, reservation, missing, winner.sagaId)))
          continue;
        return { sagaId: winner.sagaId, fresh: false };
      }
      throw new SagaxError(
        'OVERLOADED',
        'The start keys are being taken and dropped by others; try again.',
      );
    },
  };
}

function keysOf(reservation: Reservation): { kind: Kind; key: string }[] {
  const keys: { kind: Kind; key: string }[] = [];
  // Always in this order: two reservations that share both keys wait for each other in one direction only.
  if (reservation.idempotencyKey !== undefined) {
    keys.push({ kind: 'idempotency', key: storable(reservation.idempotencyKey) });
  }
  if (reservation.businessKey !== undefined) {
    keys.push({ kind: 'business', key: storable(reservation.businessKey) });
  }
  return keys;
}

function storable(key: string): string {
  if (Buffer.byteLength(key) <= MAX_KEY_BYTES) return toText(key);
  return `sha256:${createHash('sha256').update(key).digest('hex')}`;
}

/** @returns false when one of the keys is taken; then none was inserted. */
async function insert(
  db: Database,
  { namespace, definition, fingerprint }: Reservation,
  keys: readonly { kind: Kind; key: string }[],
  sagaId: string,
): Promise<boolean> {
  try {
    await db.read({
      name: 'sagax-start-keys',
      text: `INSERT INTO sagax.start_keys (namespace, definition, kind, key, saga_id, fingerprint)
        SELECT $1, $2, k.kind, k.key, $5, $6 FROM unnest($3::text[], $4::text[]) AS k (kind, key)`,
      values: [
        namespace,
        definition,
        keys.map(({ kind }) => kind),
        keys.map(({ key }) => key),
        sagaId,
        fingerprint,
      ],
    });
    return true;
  } catch (error) {
    if (sqlState(error) === '23505') return false;
    throw error;
  }
}

async function holders(
  db: Database,
  { namespace, definition }: Reservation,
  keys: readonly { kind: Kind; key: string }[],
): Promise<Holder[]> {
  return db.read<Holder>({
    name: 'sagax-start-key-holders',
    text: `SELECT s.kind, s.saga_id, s.fingerprint FROM sagax.start_keys s
      JOIN unnest($3::text[], $4::text[]) AS k (kind, key) ON s.kind = k.kind AND s.key = k.key
      WHERE s.namespace = $1 AND s.definition = $2 ORDER BY s.kind DESC`,
    values: [namespace, definition, keys.map(({ kind }) => kind), keys.map(({ key }) => key)],
  });
}

/** The saga that has the keys, and which of them it has; null when they were free after all. */
function winnerOf(
  reservation: Reservation,
  found: readonly Holder[],
): { sagaId: string; kinds: Set<Kind> } | null {
  const first = found[0];
  if (first === undefined) return null;
  for (const { kind, saga_id, fingerprint } of found) {
    if (fingerprint === reservation.fingerprint && saga_id === first.saga_id) continue;
    const key = kind === 'business' ? reservation.businessKey : reservation.idempotencyKey;
    throw new SagaxError(
      'KEY_REUSED',
      `The ${kind} key "${key}" belongs to saga ${saga_id}, which was started by another request. Use a new key, ` +
        `or look at that saga.`,
    );
  }
  return { sagaId: first.saga_id, kinds: new Set(found.map(({ kind }) => kind)) };
}
