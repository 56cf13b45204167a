/**
 * `NodeIdLeases` in memory: an id comes back only above the time its last holder may have used (I13).
 */
import { SagaxError } from '../core/errors.ts';
import type { NodeIdLeases } from '../ports.ts';
import type { MemoryDatabase, NodeIdRow } from './database.ts';
import type { Host } from './host.ts';

export function memoryNodeIds(db: MemoryDatabase, host: Host): NodeIdLeases {
  return {
    acquire: (owner, ttlMs) =>
      host.io({ point: 'nodeIds.acquire', work: () => acquire(db, owner, ttlMs) }),
    renew: (nodeId, epoch, ttlMs) =>
      host.io({
        point: 'nodeIds.renew',
        work: () => {
          const row = db.nodeIds[nodeId];
          if (row === undefined || row.owner === null || row.epoch !== epoch) return false;
          row.expiresAt = db.now() + ttlMs;
          row.lastMs = Math.max(row.lastMs, row.expiresAt);
          return true;
        },
      }),
    release: (nodeId, epoch, lastMs) =>
      host.io({
        point: 'nodeIds.release',
        work: () => {
          const row = db.nodeIds[nodeId];
          if (row === undefined || row.owner === null || row.epoch !== epoch) return;
          row.owner = null;
          row.expiresAt = 0;
          row.lastMs = lastMs;
        },
      }),
  };
}

function acquire(
  db: MemoryDatabase,
  owner: string,
  ttlMs: number,
): { nodeId: number; epoch: number; startAboveMs: number } {
  const now = db.now();
  let best: NodeIdRow | undefined;
  for (const row of db.nodeIds) {
    if (row.owner !== null && row.expiresAt >= now) continue;
    if (now <= row.lastMs) continue;
    if (best === undefined || row.lastMs < best.lastMs) best = row;
  }
  if (best === undefined) {
    throw new SagaxError(
      'NODE_IDS_EXHAUSTED',
      `All ${db.nodeIds.length} Snowflake node ids are leased or not yet free again; stop idle processes or wait for their leases to end.`,
    );
  }
  const startAboveMs = best.lastMs;
  best.epoch += 1;
  best.owner = owner;
  best.expiresAt = now + ttlMs;
  best.lastMs = Math.max(best.lastMs, best.expiresAt);
  return { nodeId: best.nodeId, epoch: best.epoch, startAboveMs };
}
