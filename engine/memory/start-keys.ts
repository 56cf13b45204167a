/** `StartKeys` in memory: the first to come has the key, a repeat gets the same saga. */
import { SagaxError } from '../core/errors.ts';
import type { StartKeys } from '../ports-read.ts';
import type { MemoryDatabase } from './database.ts';
import type { Host } from './host.ts';

type Reservation = Parameters<StartKeys['reserve']>[0];

export function memoryStartKeys(db: MemoryDatabase, host: Host): StartKeys {
  return {
    reserve: (reservation) =>
      host.io({ point: 'startKeys.reserve', work: () => reserve(db, reservation) }),
  };
}

function reserve(db: MemoryDatabase, wanted: Reservation): { sagaId: string; fresh: boolean } {
  const keys = [
    ...(wanted.idempotencyKey === undefined ? [] : [['idempotency', wanted.idempotencyKey]]),
    ...(wanted.businessKey === undefined ? [] : [['business', wanted.businessKey]]),
  ].map(([kind, key]) => ({
    kind,
    key,
    id: JSON.stringify([wanted.namespace, wanted.definition, kind, key]),
  }));
  let winner: string | undefined;
  for (const { kind, key, id } of keys) {
    const holder = db.startKeys.get(id);
    if (holder === undefined) continue;
    if (
      holder.fingerprint !== wanted.fingerprint ||
      (winner !== undefined && winner !== holder.sagaId)
    ) {
      throw new SagaxError(
        'KEY_REUSED',
        `The ${kind} key "${key}" belongs to saga ${holder.sagaId}, which was started by another request. Use a new key.`,
      );
    }
    winner = holder.sagaId;
  }
  const sagaId = winner ?? wanted.sagaId;
  for (const { id } of keys) {
    if (!db.startKeys.has(id)) db.startKeys.set(id, { sagaId, fingerprint: wanted.fingerprint });
  }
  return { sagaId, fresh: winner === undefined };
}
