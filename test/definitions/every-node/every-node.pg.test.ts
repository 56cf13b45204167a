/** Every node of every example saga through every trouble, on the store of a real Postgres. */
import type { PgTx } from '../../../workers/postgres/transaction.ts';
import { postgresRig } from '../../workers/support/postgres-rig.ts';
import { everyNodeSuite, type Kind } from './suite.ts';

const KINDS: readonly Kind[] = ['transactional', 'in batches', 'effect'];
for (const kind of KINDS) {
  everyNodeSuite<PgTx>({
    name: 'postgres',
    kind,
    open: () => postgresRig({ pipeline: true }),
    whileTimePasses: (_rig, work) => work,
    atOnce: 8,
  });
}
