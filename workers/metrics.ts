/** What a worker counts. A small interface, so that any metrics library can stand behind it. */
import { textOf } from './failures.ts';
import type { Log } from './handlers.ts';
import type { CommandOp } from '../engine/core/events.ts';
import type { ReplyBody } from '../engine/core/wire.ts';

export interface CommandLabels {
  service: string;
  command: string;
  op: CommandOp;
}

export interface WorkerMetrics {
  /** A command was dealt with. `lost`: another worker took it over, and answers it. */
  handled(outcome: ReplyBody['outcome'] | 'lost', labels: CommandLabels): void;
  /** It had been answered before: the stored answer was sent again and no handler ran. */
  duplicate(labels: CommandLabels): void;
  /** A message that can't be a command was kept as a dead letter. */
  parked(code: string, labels: { service: string }): void;
  /** How long one run of a handler took, in ms, whatever came of it. */
  handlerMs(ms: number, labels: CommandLabels): void;
}

export const NO_METRICS: WorkerMetrics = {
  handled: () => undefined,
  duplicate: () => undefined,
  parked: () => undefined,
  handlerMs: () => undefined,
};

/** A hook that throws must not cost a command its answer. */
export function guarded(metrics: WorkerMetrics, log: Log): WorkerMetrics {
  const safely = (run: () => void): void => {
    try {
      run();
    } catch (error) {
      log.warn({ error: textOf(error) }, 'a metrics hook threw');
    }
  };
  return {
    handled: (outcome, labels) => safely(() => metrics.handled(outcome, labels)),
    duplicate: (labels) => safely(() => metrics.duplicate(labels)),
    parked: (code, labels) => safely(() => metrics.parked(code, labels)),
    handlerMs: (ms, labels) => safely(() => metrics.handlerMs(ms, labels)),
  };
}
