/**
 * Kafka is away for minutes: starts are refused with Retry-After or kept, no process swells, and what gathered
 * meanwhile is worked off faster than new work comes.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { defineCampaign, type Outcome } from '../campaign.ts';
import type { Violation } from '../checker/evidence.ts';
import { completes } from '../crash/shapes.ts';
import type { Stage } from '../stage.ts';
import { Operator } from './operator.ts';

const WARM_UP_MS = 5_000;
const PROBE_EVERY_MS = 1_000;
const LOOK_EVERY_MS = 250;
/** Of one process. It takes about 150 MiB when all is well; an outage must not be kept in memory. */
const RSS_LIMIT_MIB = 500;
const DRAIN_FACTOR = 2;
const DRAIN_LIMIT_MS = 240_000;

export const kafkaDown = defineCampaign({
  name: 'kafka-down',
  faults: 'Kafka killed and away for minutes, while sagas are started by REST',
  sizes: {
    ci: { away_s: 15, perS: 5, nodes: 1 },
    release: { away_s: 180, perS: 10, nodes: 2 },
  },
  async run(open, size, say): Promise<Outcome> {
    const stage = await open({
      bus: 'kafka',
      perS: size.perS,
      // Sagas that wait for people or for timers would end no faster, however fast the backlog is worked off.
      draw: (n) => completes.draw(n),
      engines: size.nodes,
      workers: size.nodes,
    });
    const { kafka } = stage;
    if (kafka === null) throw new Error('The stage has no Kafka of its own.');
    const watch = new MemoryWatch(stage);
    try {
      await pause(WARM_UP_MS);
      await kafka.kill();
      say(`Kafka is away for ${size.away_s} s`);
      const answers = await probe(stage, size.away_s * 1_000);
      const backlog = stage.load.pending;
      const before = await endedIn(stage);
      await kafka.restart();
      say(`Kafka is back; ${backlog} starts wait`);
      const drain = await drainOf(stage, before, backlog);
      const arrival_per_s = size.perS;
      say(`${drain.per_s.toFixed(1)} sagas ended a second, ${arrival_per_s} a second came`);
      const settled = await stage.settle({ say });
      settled.violations.push(...answers.wrong, ...watch.wrong());
      if (drain.per_s < DRAIN_FACTOR * arrival_per_s) {
        const what = `${drain.per_s.toFixed(1)} sagas a second ended behind the outage, ${arrival_per_s} a second came`;
        settled.violations.push({ invariant: 'I12', sagaId: null, what });
      }
      const notes = {
        away_s: size.away_s,
        refused_with_retry_after: answers.refused,
        accepted_meanwhile: answers.accepted,
        backlog,
        drain_per_s: Math.round(drain.per_s * 10) / 10,
        arrival_per_s,
        first_end_after_ms: drain.firstAfterMs,
        max_rss_mib: watch.max_mib,
      };
      return { faults: 1, settled, notes };
    } finally {
      watch.stop();
    }
  },
});

interface Answers {
  refused: number;
  accepted: number;
  wrong: Violation[];
}

/** Starts sagas while Kafka is away. Each must be kept, or refused in a way that a client can act on. */
async function probe(stage: Stage, forMs: number): Promise<Answers> {
  const operator = new Operator(stage.env);
  const found: Answers = { refused: 0, accepted: 0, wrong: [] };
  const asked: Promise<void>[] = [];
  const until = performance.now() + forMs;
  for (let n = 0; performance.now() < until; n += 1) {
    asked.push(
      operator.start(`away-${n}`).then(({ status, retryAfterS, sagaId }) => {
        if (status === 503 && retryAfterS !== null && retryAfterS >= 1) found.refused += 1;
        else if (status === 202 && sagaId !== null) found.accepted += 1;
        else {
          const what = `a start without Kafka was answered with ${status}, Retry-After ${retryAfterS}`;
          found.wrong.push({ invariant: 'I4', sagaId: null, what });
        }
      }),
    );
    await pause(Math.min(PROBE_EVERY_MS, Math.max(0, until - performance.now())));
  }
  await Promise.all(asked);
  if (found.refused + found.accepted === 0) throw new Error('Nothing was asked during the outage.');
  return found;
}

/** How fast sagas end from the first end behind the outage until as many have ended as waited. */
async function drainOf(
  stage: Stage,
  before: number,
  backlog: number,
): Promise<{ per_s: number; firstAfterMs: number }> {
  const backAt = performance.now();
  let first: { at: number; ended: number } | null = null;
  for (;;) {
    const now = performance.now();
    const ended = await endedIn(stage);
    if (first === null && ended > before) first = { at: now, ended };
    if (first !== null && ended >= before + backlog && now > first.at) {
      const per_s = ((ended - first.ended) * 1_000) / (now - first.at);
      return { per_s, firstAfterMs: Math.round(first.at - backAt) };
    }
    if (now - backAt > DRAIN_LIMIT_MS) {
      throw new Error(
        `Of ${backlog} sagas that waited ${ended - before} ended in ${DRAIN_LIMIT_MS} ms.`,
      );
    }
    await pause(LOOK_EVERY_MS);
  }
}

async function endedIn(stage: Stage): Promise<number> {
  const client = new pg.Client({ connectionString: stage.servers.databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ ended: string }>(
      'SELECT count(*) AS ended FROM sagax.sagas WHERE ended_at_ms IS NOT NULL',
    );
    return Number(rows[0]?.ended ?? 0);
  } finally {
    await client.end();
  }
}

/** Samples what each process of the crew holds in memory. */
class MemoryWatch {
  max_mib = 0;
  readonly #stage: Stage;
  readonly #wrong = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;
  #samples = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
    this.#timer = setInterval(() => void this.#sample(), PROBE_EVERY_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** @throws Error when it has seen nothing */
  wrong(): Violation[] {
    this.stop();
    if (this.#samples === 0) throw new Error('No process could be looked at; /proc is needed.');
    return [...this.#wrong].map(([who, mib]) => ({
      invariant: 'I12',
      sagaId: null,
      what: `${who} held ${mib} MiB, the limit is ${RSS_LIMIT_MIB} MiB`,
    }));
  }

  async #sample(): Promise<void> {
    for (const { role, n, process } of this.#stage.crew.members) {
      // It may have ended a moment ago.
      const text = await readFile(`/proc/${process.pid}/status`, 'utf8').catch(() => '');
      const kib = Number(/^VmRSS:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0);
      if (kib === 0) continue;
      this.#samples += 1;
      const mib = Math.round(kib / 1_024);
      this.max_mib = Math.max(this.max_mib, mib);
      if (mib > RSS_LIMIT_MIB) this.#wrong.set(`${role} ${n}`, mib);
    }
  }
}
