/** The barrier's table and the store conformance suite, on the store of a real Postgres. */
import { barrierSuite } from './support/barrier-suite.ts';
import { postgresRig } from './support/postgres-rig.ts';

barrierSuite('postgres', () => postgresRig(), 'one by one');
barrierSuite(
  'postgres, statements sent ahead',
  () => postgresRig({ pipeline: true }),
  'one by one',
);
barrierSuite('postgres', () => postgresRig(), 'in batches');
