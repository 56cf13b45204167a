/** Commands put straight to `execute`, as a worker does it, with or without the company of others. */
import type { CommandBody, ReplyBody } from '../../../engine/core/wire.ts';
import type { ExecuteDeps } from '../../../workers/barrier.ts';
import { Batches, canBatch } from '../../../workers/batches.ts';
import { execute } from '../../../workers/execute.ts';
import type { Handler } from '../../../workers/handlers.ts';
import { NO_METRICS } from '../../../workers/metrics.ts';
import { Pace } from '../../../workers/pace.ts';
import { Trust } from '../../../workers/trust.ts';
import type { ParticipantStore } from '../../../workers/ports.ts';
import { Slots } from '../../../workers/slots.ts';
import { keptLog } from './logs.ts';
import type { StoreRig } from './stores.ts';

/** Trust that these commands have earned, with so many statements each. */
export function trusting(statements: number, ...contracts: readonly { name: string }[]): Trust {
  const trust = new Trust();
  for (const { name } of contracts) while (!trust.has(name)) trust.succeeded(name, statements);
  return trust;
}

export interface Executions {
  /** @returns the reply. @throws when there is none */
  run(command: CommandBody): Promise<ReplyBody>;
  /** How many batches were begun. */
  readonly batches: number;
}

/** @param way whether the handlers are known to be quick, so that they may share a transaction */
export function executions<Tx>(
  rig: StoreRig<Tx>,
  store: ParticipantStore<Tx>,
  handlers: readonly Handler<NoInfer<Tx>>[],
  way: 'one by one' | 'in batches',
  options: Partial<ExecuteDeps<Tx>> = {},
): Executions {
  if (!canBatch(store)) throw new Error('The store has no batches.');
  const pace = new Pace(rig.clock);
  if (way === 'in batches') {
    for (const { contract } of handlers) pace.note(contract.name, 0.1);
    // Against so dear a transaction every handler is quick, so that a busy machine does not part a batch.
    pace.noteTransaction(10_000);
  }
  const deps: ExecuteDeps<Tx> = {
    service: 'shop',
    pace,
    trust: new Trust(),
    slots: new Slots(1),
    handlers: new Map(handlers.map((handler) => [handler.contract.name, handler])),
    store,
    clock: rig.clock,
    log: keptLog(),
    metrics: NO_METRICS,
    transactionTimeoutMs: 10_000,
    encode: (reply) => ({
      topic: '',
      partition: 0,
      key: '',
      headers: {},
      value: JSON.stringify(reply),
    }),
    sendHeartbeat: () => undefined,
    ...options,
  };
  let begun = 0;
  const counted: typeof store = Object.create(store, {
    batch: {
      value: (work: Parameters<typeof store.batch>[0]) => {
        begun += 1;
        return store.batch(work);
      },
    },
  });
  const stop = new AbortController().signal;
  const batches = new Batches(deps, counted, stop);
  return {
    get batches() {
      return begun;
    },
    run: async (command) => {
      const execution = await execute({ ...deps, batches }, command, stop);
      if (execution.kind !== 'answered') throw new Error(`The command was ${execution.kind}.`);
      return execution.reply;
    },
  };
}
