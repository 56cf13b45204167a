/** Histories out of memory. */
import { openMemory } from '../../engine/memory/index.ts';
import { historyConformance } from './history-conformance.ts';

historyConformance('memory', async () => ({
  ...openMemory({ shards: 1 }),
  close: () => Promise.resolve(),
}));
