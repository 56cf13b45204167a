/**
 * Three groups of tests, by what they need: none (`*.test.ts`), Postgres (`*.pg.test.ts`), and
 * Postgres with Kafka (`*.kafka.test.ts`). Each service is booted once per run; a file gets a database
 * cloned for it alone and a topic prefix of its own, so files may run side by side.
 */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'fast',
          include: ['test/**/*.test.ts'],
          exclude: ['test/**/*.pg.test.ts', 'test/**/*.kafka.test.ts', 'node_modules/**'],
          typecheck: { enabled: false },
        },
      },
      {
        test: {
          name: 'postgres',
          include: ['test/**/*.pg.test.ts'],
          globalSetup: ['test/support/postgres-setup.ts'],
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'kafka',
          include: ['test/**/*.kafka.test.ts'],
          globalSetup: ['test/support/postgres-setup.ts', 'test/support/kafka-setup.ts'],
          // A broker that restarts, or a member that is given up, takes its time; more on a loaded machine.
          testTimeout: 120_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
