/** `DeadLetters` in memory: what could not be applied, newest first. */
import type { DeadLetters } from '../ports-read.ts';
import type { MemoryDatabase } from './database.ts';
import type { Host } from './host.ts';

export function memoryDeadLetters(db: MemoryDatabase, host: Host): DeadLetters {
  return {
    list: ({ beforeId, limit, includeRedriven }) =>
      host.io({
        point: 'deadLetters.list',
        work: () =>
          db.deadLetters
            .filter((letter) => beforeId === undefined || Number(letter.id) < Number(beforeId))
            .filter((letter) => includeRedriven === true || letter.redrivenAt === null)
            .sort((a, b) => Number(b.id) - Number(a.id))
            .slice(0, limit)
            .map((letter) => ({ ...letter })),
      }),
    get: (id) =>
      host.io({
        point: 'deadLetters.get',
        work: () => {
          const letter = db.deadLetters.find((candidate) => candidate.id === id);
          return letter === undefined ? null : { ...letter };
        },
      }),
    markRedriven: (id) =>
      host.io({
        point: 'deadLetters.markRedriven',
        work: () => {
          const letter = db.deadLetters.find((candidate) => candidate.id === id);
          if (letter === undefined || letter.redrivenAt !== null) return false;
          letter.redrivenAt = db.now();
          return true;
        },
      }),
  };
}
