/** Every node of every example saga through every trouble, on the store in memory. */
import type { MemoryTx } from '../../../workers/memory/transaction.ts';
import { memoryRig } from '../../workers/support/memory-rig.ts';
import { pumped } from './memory.ts';
import { everyNodeSuite, type Kind } from './suite.ts';

const KINDS: readonly Kind[] = ['transactional', 'in batches', 'effect'];
for (const kind of KINDS) {
  everyNodeSuite<MemoryTx>({
    name: 'memory',
    kind,
    open: memoryRig,
    whileTimePasses: pumped,
    atOnce: 1,
  });
}
