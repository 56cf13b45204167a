/**
 * Every statement that engine, worker and API send meets every failure that Postgres may answer with.
 *
 * Guards that no statement was forgotten when errors were thought of: first normal life is watched, starts and
 * ends of processes included, then each statement meets each failure once while life goes on. A failure that
 * comes at a process's start may end it, with the exit code for "out of reach"; later none may.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { createPostgresBus } from '../../../engine/postgres/bus.ts';
import { defineCampaign } from '../campaign.ts';
import { INJECTED_HEADER, type Violation } from '../checker/evidence.ts';
import type { Member } from '../crew.ts';
import type { Settled, Stage } from '../stage.ts';
import { Coverage, FAILURES } from './coverage.ts';
import { Traffic } from './traffic.ts';
import { mend, openWired, type Wire } from './wires.ts';

interface Size {
  /** Failures for each statement. */
  perStatement: number;
  /** Between two failures of one process, so that work gets through. */
  gapMs: number;
  /** A phase ends when nothing new was met for so long. */
  patienceMs: number;
  /** Longest time of each phase. */
  limitMs: number;
  /** Whether a statement that has not met all of them fails the run. */
  isComplete: boolean;
  perS: number;
}

/** Ends of a process that was told to end: in order, or because the database could not be reached. */
const ORDERLY_ENDS: readonly (number | string)[] = [0, 69];
/** Garbage for the dead letters, so that their statements run. */
const GARBAGE = 2;
const SHOWN_MISSING = 40;
/** With nothing broken any more a round takes seconds; this is for a machine that is very busy. */
const LAST_ROUND_LIMIT_MS = 300_000;

export const sqlstates = defineCampaign<Size>({
  name: 'sqlstates',
  faults:
    'each of 40001, 40P01, 55P03, 57014, 57P01, 08006 and a cut line in place of each statement of engine, worker and API',
  sizes: {
    ci: {
      perStatement: 1,
      gapMs: 40,
      patienceMs: 4_000,
      limitMs: 12_000,
      isComplete: false,
      perS: 5,
    },
    release: {
      perStatement: Object.keys(FAILURES).length,
      gapMs: 40,
      // Two rounds of what is done every 30 s.
      patienceMs: 65_000,
      limitMs: 900_000,
      isComplete: true,
      perS: 5,
    },
  },
  run: async (open, size, say) => {
    const engines = size.isComplete ? 2 : 1;
    const { stage, wires } = await openWired(open, {
      bus: 'postgres',
      perS: size.perS,
      engines,
      workers: engines,
    });
    const [api] = stage.crew.of('api');
    // The stage has chosen the port, so that it stays when the process is started anew.
    const address = (await api?.process.line(/"address":"([^"]+)"/))?.[1] ?? '';
    const run = new Run(stage, wires, size, say, address);
    try {
      await run.watch();
      await run.meetInLife();
      await run.meetAtStarts();
    } finally {
      await run.end();
    }
    return run.judge();
  },
});

class Run {
  readonly #stage: Stage;
  readonly #wires: readonly Wire[];
  readonly #size: Size;
  readonly #say: (text: string) => void;
  readonly #coverage: Coverage;
  readonly #traffic: Traffic;
  readonly #stop = new AbortController();
  readonly #wrong: string[] = [];
  #touring: Promise<void> = Promise.resolve();
  #isTouring = true;
  #faults = 0;
  /** A process that meets failures at its start is started again and again; it must get through at last. */
  #injectUntil = 0;

  constructor(
    stage: Stage,
    wires: readonly Wire[],
    size: Size,
    say: (text: string) => void,
    address: string,
  ) {
    this.#stage = stage;
    this.#wires = wires;
    this.#size = size;
    this.#say = say;
    this.#coverage = new Coverage(size.perStatement);
    this.#traffic = new Traffic(() => address, this.#stop.signal);
  }

  /**
   * Normal life: one tour through everything, and each process ended and started once. What only the very first start
   * says is left out, since it does not come again: test/postgres/first-start-faults.pg.test.ts has it.
   */
  async watch(): Promise<void> {
    const before = this.#wires.map(({ proxy }) => countsOf(proxy));
    await this.#sendGarbage();
    await this.#traffic.round();
    await this.#traffic.look();
    for (const member of this.#stage.crew.members) await this.#restart(member);
    await this.#traffic.look();
    this.#wires.forEach(({ role, proxy }, index) => {
      for (const [label, count] of countsOf(proxy))
        if (count > (before[index]?.get(label) ?? 0)) this.#coverage.note(role, label, true);
    });
    this.#say(`${this.#coverage.figures.statements} statements in normal life`);
  }

  /** Failures while all processes run. Ends when nothing new is met any more. */
  async meetInLife(): Promise<void> {
    this.#touring = this.#tour();
    this.#inject(this.#size.gapMs);
    await this.#untilQuiet(() => Promise.resolve());
    this.#say(`in life: ${JSON.stringify(this.#coverage.figures)}`);
  }

  /** Failures while processes start and end: what is left is met there. */
  async meetAtStarts(): Promise<void> {
    this.#inject(0);
    const restartAll = async (): Promise<void> => {
      const left = this.#stage.crew.members.filter(
        ({ role }) => this.#coverage.missing(role).length > 0,
      );
      await Promise.all(left.map((member) => this.#restart(member)));
    };
    await this.#untilQuiet(restartAll);
    this.#say(`at starts: ${JSON.stringify(this.#coverage.figures)}`);
  }

  async end(): Promise<void> {
    mend(this.#wires);
    this.#isTouring = false;
    // The last round is played to its end: a saga that waits for a person would wait for hours.
    const limit = setTimeout(() => this.#stop.abort(), LAST_ROUND_LIMIT_MS);
    await this.#touring;
    clearTimeout(limit);
  }

  async judge(): Promise<{ faults: number; settled: Settled; notes: { [name: string]: number } }> {
    const { requests, started, elsewhere } = this.#traffic;
    // The load's own are counted by the stage; these are told to the checker just the same.
    this.#stage.load.accepted.push(...requests.accepted);
    const settled = await this.#stage.settle({
      say: this.#say,
      allowDeadLetter: ({ code }) => code === 'MESSAGE_INVALID',
    });
    // Of what was done elsewhere only this can't be seen; all else of such a saga is checked.
    const unseen = new Set(
      [...elsewhere].map((id) => `${id} is logged as done, but never took effect`),
    );
    settled.violations = settled.violations.filter(
      ({ invariant, what }) => invariant !== 'I8' || !unseen.has(what),
    );
    const add = (invariant: Violation['invariant'], sagaId: string | null, what: string): void =>
      void settled.violations.push({ invariant, sagaId, what });
    for (const what of [...this.#wrong, ...requests.wrong]) add('I4', null, what);
    const rows = new Map(settled.evidence.sagas.map((row) => [row.sagaId, row]));
    for (const [sagaId, { end, shape }] of started) {
      const row = rows.get(sagaId);
      // On a slow machine a step may time out between failures; then all is taken back, and the saga says why.
      const isLate = row?.status === 'compensated' && row.failureCode === 'STEP_TIMED_OUT';
      if (row?.status === end || isLate) continue;
      const is = `${row?.status} (${row?.failureCode})`;
      add('I12', sagaId, `must end as ${end}, and is ${is}; shape ${shape}`);
    }
    for (const line of this.#coverage.table()) this.#say(line);
    const { statements, met, missing } = this.#coverage.figures;
    this.#assertComplete();
    return { faults: this.#faults, settled, notes: { statements, met, missing } };
  }

  #assertComplete(): void {
    const missing = this.#coverage.missing();
    for (const { role, label, failure } of missing.slice(0, SHOWN_MISSING))
      this.#say(`not met: ${failure} at ${role} ${label}`);
    const ofNormal = missing.filter(({ isNormal }) => isNormal).length;
    if (this.#size.isComplete && ofNormal > 0)
      throw new Error(`${ofNormal} failures at statements of normal life were not met.`);
  }

  #inject(gap_ms: number): void {
    this.#injectUntil = performance.now() + this.#size.limitMs;
    for (const { role, proxy } of this.#wires) {
      let nextAt = 0;
      proxy.plan = ({ label }) => {
        this.#coverage.note(role, label, false);
        const now = performance.now();
        if (now < nextAt || now > this.#injectUntil) return null;
        const name = this.#coverage.take(role, label);
        if (name === null) return null;
        nextAt = now + gap_ms;
        return FAILURES[name] ?? null;
      };
      proxy.onHappened = ({ fault, statement }) => {
        this.#faults += 1;
        this.#coverage.met(role, statement.label, fault);
      };
    }
  }

  /** Runs `step` until all is met, nothing new is met for long, or the time is over. */
  async #untilQuiet(step: () => Promise<void>): Promise<void> {
    const { patienceMs, limitMs } = this.#size;
    const giveUpAt = performance.now() + limitMs;
    this.#coverage.lastMetAt = performance.now();
    while (performance.now() < giveUpAt && this.#coverage.missing().length > 0) {
      if (performance.now() > this.#coverage.lastMetAt + patienceMs) return;
      await step();
      await pause(50);
    }
  }

  /** All of it again and again, while failures are met. */
  async #tour(): Promise<void> {
    while (this.#isTouring) {
      try {
        await this.#traffic.round();
        await this.#traffic.look();
        await this.#sendGarbage();
      } catch (error) {
        this.#wrong.push(`the tour: ${String(error)}`);
        if (this.#stop.signal.aborted) return;
      }
    }
  }

  async #restart(member: Member): Promise<void> {
    const { process } = member;
    await this.#stage.crew.kill(member, 'SIGTERM');
    const code = await process.ended;
    if (!ORDERLY_ENDS.includes(code))
      this.#wrong.push(
        `${member.role} ended with ${code} when told to end: ${process.said().slice(-1_500)}`,
      );
    // The crew starts another one; until then its place has the one that ended.
    while (member.process === process) await pause(20);
    await this.#stage.crew.ready(member);
  }

  async #sendGarbage(): Promise<void> {
    const bus = createPostgresBus({ url: this.#stage.servers.databaseUrl });
    try {
      const headers = { [INJECTED_HEADER]: 'garbage' };
      for (let n = 0; n < GARBAGE; n++) {
        for (const topic of ['chaos.inbox', 'chaos.commands.inventory'])
          await bus.publish([{ topic, partition: n, key: `garbage-${n}`, headers, value: '{' }]);
      }
    } finally {
      await bus.close();
    }
  }
}

/** How often each statement was said by now. */
function countsOf(proxy: Wire['proxy']): Map<string, number> {
  return new Map(Array.from(proxy.statements, ([label, { count }]) => [label, count]));
}
