/** The brokers of this run, for `*.kafka.test.ts`; null when those tests are to be skipped. */
import { inject } from 'vitest';
import './kafka-setup.ts';

export function kafkaBrokers(): string[] | null {
  return inject('kafkaBrokers');
}
