import { barrierSuite } from './support/barrier-suite.ts';
import { memoryRig } from './support/memory-rig.ts';

barrierSuite('memory', memoryRig);
