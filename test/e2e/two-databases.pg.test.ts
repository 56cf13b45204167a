/** A log over two Postgres servers with the Postgres bus, which lives in the first. */
import { describe } from 'vitest';
import { twoDatabases } from './two-databases.ts';

describe('two databases, Postgres bus', { timeout: 180_000 }, () => {
  twoDatabases(null);
});
