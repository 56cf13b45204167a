/**
 * The import rules: imports point inward, and `pg`, `kafkajs` and `fastify` each have one home.
 *
 * Guards the layout of docs/ARCHITECTURE.md. Run by scripts/check-imports.ts, which also sees to it
 * that every file was looked at; test/tidy/imports.test.ts breaks each rule once and expects it to fire.
 */

import type { IConfiguration, IForbiddenRuleType } from 'dependency-cruiser';

/** A package, wherever npm has put it. */
const npm = (names: string): string => `(^|/)node_modules/(${names})/`;
const forbid = (name: string, comment: string, from: object, to: object): IForbiddenRuleType => ({
  name,
  comment,
  severity: 'error',
  from,
  to,
});

const PRODUCTION = '^(engine|workers|definitions|api|cli)/';

const config: IConfiguration = {
  forbidden: [
    forbid(
      'core-is-pure',
      'engine/core may import its own files, xstate and zod: no IO, so that a replay is exact (I9).',
      { path: '^engine/core/' },
      { pathNot: ['^engine/core/', npm('xstate|zod')] },
    ),
    forbid(
      'ports-see-core',
      'A port is a contract: it may name the types of the core and of other ports, nothing else.',
      { path: '^engine/ports[^/]*\\.ts$' },
      { pathNot: ['^engine/core/', '^engine/ports[^/]*\\.ts$'] },
    ),
    forbid(
      'adapters-see-ports',
      'An adapter may see its own files, the ports and the core; never another adapter nor the runtime.',
      { path: '^engine/(postgres|kafka|memory)/' },
      { path: PRODUCTION, pathNot: ['^engine/$1/', '^engine/core/', '^engine/ports[^/]*\\.ts$'] },
    ),
    forbid(
      'runtime-sees-ports',
      'The loops work on ports; which adapter stands behind one is decided by who starts them.',
      { path: '^engine/runtime/' },
      { path: PRODUCTION, pathNot: ['^engine/(core|runtime)/', '^engine/ports[^/]*\\.ts$'] },
    ),
    forbid(
      'engine-stands-alone',
      'The engine knows no definition, worker, API or command line.',
      { path: '^engine/' },
      { path: '^(workers|definitions|api|cli)/' },
    ),
    forbid(
      'definitions-see-core',
      'A definition says what a flow is: the core, xstate and zod are all it needs.',
      { path: '^definitions/' },
      { pathNot: ['^definitions/', '^engine/core/', npm('xstate|zod')] },
    ),
    forbid(
      'workers-see-ports',
      'A worker meets the engine on the bus only: the core, the ports and its contracts.',
      { path: '^workers/' },
      {
        path: PRODUCTION,
        pathNot: ['^(workers|definitions)/', '^engine/core/', '^engine/ports[^/]*\\.ts$'],
      },
    ),
    forbid(
      'api-sees-ports',
      'The API works on ports and the core; adapters are handed to it.',
      { path: '^api/' },
      { path: PRODUCTION, pathNot: ['^api/', '^engine/core/', '^engine/ports[^/]*\\.ts$'] },
    ),
    forbid(
      'pg-has-one-home',
      'SQL is spoken in engine/postgres and workers/postgres; a service gets its client as `tx`.',
      { path: PRODUCTION, pathNot: '^(engine|workers)/postgres/' },
      { path: npm('pg|pg-[a-z-]+|@types/pg') },
    ),
    forbid(
      'kafkajs-has-one-home',
      'No type of kafkajs leaves its adapter, so that the client can be replaced.',
      { path: PRODUCTION, pathNot: '^engine/kafka/' },
      { path: npm('kafkajs') },
    ),
    forbid(
      'fastify-has-one-home',
      'HTTP is spoken in api/ only.',
      { path: PRODUCTION, pathNot: '^api/' },
      { path: npm('fastify|@fastify/[^/]+|fastify-[a-z-]+') },
    ),
    forbid(
      'production-runs-without-tests',
      'What is shipped imports neither tests, benchmarks nor scripts.',
      { path: PRODUCTION },
      { path: '^(test|bench|scripts)/' },
    ),
    forbid(
      'production-runs-without-dev-packages',
      'What is shipped must be in `dependencies`: devDependencies are not there in production.',
      { path: PRODUCTION },
      {
        dependencyTypes: ['npm-dev'],
        dependencyTypesNot: ['type-only'],
        pathNot: npm('@types/[^/]+'),
      },
    ),
    forbid(
      'checker-stands-alone',
      'The external checker judges by what lies in the database and the topics: it knows no code of ours.',
      { path: '^test/chaos/checker/' },
      {
        path: '^(engine|workers|definitions|api|cli|test|bench|scripts)/',
        pathNot: '^test/chaos/checker/',
      },
    ),
    forbid(
      'no-cycle',
      'Modules that import each other in a ring can be neither read nor tested one by one.',
      {},
      { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    ),
    forbid(
      'resolvable',
      'The import leads nowhere: mend its path, or add the package to package.json.',
      {},
      { couldNotResolve: true },
    ),
  ],
  options: {
    // TypeScript 7 has no API for other tools to parse with.
    parser: 'swc',
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: {
      extensions: ['.ts', '.mjs', '.js', '.json', '.d.ts'],
      exportsFields: ['exports'],
      conditionNames: ['types', 'node', 'import', 'default'],
    },
  },
};

export default config;
