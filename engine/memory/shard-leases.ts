/**
 * `ShardLeases` in memory: only the database's clock counts; taking a shard bumps its epoch (I2).
 */
import type { ShardLease, ShardLeases } from '../ports.ts';
import type { MemoryDatabase } from './database.ts';
import type { Host } from './host.ts';

export function memoryShardLeases(db: MemoryDatabase, host: Host): ShardLeases {
  return {
    shardCount: db.shards.length,
    acquire: (shard, owner, ttlMs, options) =>
      host.io({
        point: 'shards.acquire',
        work: (): ShardLease | null => {
          const row = db.shard(shard);
          const free = row.owner === null || row.owner === owner || (row.expiresAt ?? 0) < db.now();
          if (!free && options?.steal !== true) return null;
          row.epoch += 1;
          row.owner = owner;
          row.expiresAt = db.now() + ttlMs;
          db.observer.acquired?.({ shard, owner, epoch: row.epoch }, db.now());
          return {
            shard,
            epoch: row.epoch,
            owner,
            nextOffset: row.nextOffset,
            nextSeq: row.nextSeq,
            publishedSeq: row.publishedSeq,
          };
        },
      }),
    renew: (owner, held, ttlMs) =>
      host.io({
        point: 'shards.renew',
        work: () =>
          held
            .filter(({ shard, epoch }) => {
              const row = db.shard(shard);
              const ours = row.owner === owner && row.epoch === epoch;
              if (ours) row.expiresAt = db.now() + ttlMs;
              return !ours;
            })
            .map(({ shard }) => shard),
      }),
    release: (shard, owner, epoch) =>
      host.io({
        point: 'shards.release',
        work: () => {
          const row = db.shard(shard);
          if (row.owner !== owner || row.epoch !== epoch) return;
          row.owner = null;
          row.expiresAt = null;
        },
      }),
  };
}
