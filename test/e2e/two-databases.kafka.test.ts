/** A log over two Postgres servers with Kafka. */
import { describe } from 'vitest';
import { kafkaBrokers } from '../support/kafka.ts';
import { twoDatabases } from './two-databases.ts';

const brokers = kafkaBrokers();

describe.skipIf(brokers === null)('two databases, Kafka', { timeout: 240_000 }, () => {
  twoDatabases(brokers);
});
