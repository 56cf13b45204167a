/** The barrier's table and the store conformance suite, on the store in memory. */
import { barrierSuite } from './support/barrier-suite.ts';
import { memoryRig } from './support/memory-rig.ts';

barrierSuite('memory', memoryRig, 'one by one');
barrierSuite('memory', memoryRig, 'in batches');
