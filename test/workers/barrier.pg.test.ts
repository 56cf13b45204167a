import { barrierSuite } from './support/barrier-suite.ts';
import { postgresRig } from './support/postgres-rig.ts';

barrierSuite('postgres', postgresRig);
