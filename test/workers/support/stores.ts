/**
 * The two stores behind one face, so that one suite runs on both: a counter per key to change in a
 * transaction, and time to pass.
 */
import type { Clock } from '../../../engine/ports.ts';
import type { BarrierRow, ParticipantStore } from '../../../workers/ports.ts';

export interface StoreRig<Tx> {
  readonly clock: Clock;
  /** One worker's store on the database. */
  connect(): ParticipantStore<Tx>;
  /** Adds to a counter inside a transaction. */
  add(tx: Tx, key: string, by: number): Promise<void>;
  /** What is committed. */
  count(key: string): Promise<number>;
  row(commandId: string): Promise<BarrierRow | null>;
  letters(): Promise<number>;
  /** Lets time pass, where time does not pass by itself. */
  elapse(ms: number): Promise<void>;
  close(): Promise<void>;
}
