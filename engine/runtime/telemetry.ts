/**
 * What the runtime says of itself: log lines and figures, as a port (adapters: pino and prom-client).
 */
export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Names of the figures; units last. */
export type CounterName =
  | 'inputs_accepted_total'
  | 'inputs_ignored_total'
  | 'inputs_skipped_total'
  | 'dead_letters_total'
  | 'events_appended_total'
  | 'messages_published_total'
  | 'messages_forwarded_total'
  | 'publish_failures_total'
  | 'shards_taken_total'
  | 'shards_lost_total'
  | 'snapshots_discarded_total'
  | 'replay_divergences_total'
  | 'sagas_ended_total'
  | 'sagas_stuck_total';
export type HistogramName = 'batch_messages' | 'append_seconds' | 'timer_lateness_seconds';

export interface Telemetry {
  log: Logger;
  count(name: CounterName, n?: number, labels?: { [name: string]: string }): void;
  observe(name: HistogramName, value: number): void;
}

const nothing = (): void => {};

/** Says nothing: for tests and as a default. */
export const silentTelemetry: Telemetry = {
  log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
  count: nothing,
  observe: nothing,
};
