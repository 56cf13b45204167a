/**
 * The checker on a real run: clean as it is, and each corruption of its record is called by its name.
 *
 * Guards against a check that can't fail: at least one corruption for each of I1..I13.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { definitions } from '../../definitions/index.ts';
import { check } from './checker/check.ts';
import { CORRUPTIONS } from './checker/corrupt.ts';
import { INVARIANTS, type Evidence } from './checker/evidence.ts';
import { checkReplay, readKeptStates, type KeptState } from './replay.ts';
import { Stage, type Settled } from './stage.ts';

/** Enough for every shape of saga, with signals, timers and compensations. */
const SAGAS = 150;
let stage: Stage;
let settled: Settled;
let kept: KeptState[];

beforeAll(async () => {
  stage = await Stage.open({
    bus: 'postgres',
    seed: 7,
    engines: 1,
    workers: 1,
    shards: 2,
    perS: 30,
  });
  while (stage.load.sagas < SAGAS) await new Promise((resolve) => setTimeout(resolve, 50));
  settled = await stage.settle();
  kept = await readKeptStates(stage.servers.logUrls);
}, 120_000);
afterAll(() => stage?.close(), 60_000);

const copy = (): Evidence => structuredClone(settled.evidence);
const firsts = (evidence: Evidence): string[] => [
  ...new Set(check(evidence).map(({ invariant }) => invariant)),
];

describe('a run without faults', () => {
  test('is clean', () => {
    expect(settled.violations).toEqual([]);
    expect(settled.unexpected).toEqual([]);
    expect(settled.evidence.sagas.length).toBeGreaterThanOrEqual(SAGAS);
    expect(settled.ends['completed']).toBeGreaterThan(0);
    expect(settled.ends['compensated']).toBeGreaterThan(0);
  });

  test.each(CORRUPTIONS)('$invariant: $name', ({ invariant, apply }) => {
    const evidence = copy();
    apply(evidence);
    expect(firsts(evidence)).toContain(invariant);
  });

  test('I9: a log that the definition does not give', () => {
    const evidence = copy();
    const row = evidence.events.find(({ type }) => type === 'StepRequested');
    if (row !== undefined) row.event['input'] = { forged: true };
    const found = checkReplay(evidence, definitions, kept);
    expect(found[0]?.what).toMatch(/the log has .*forged.* but the definition gives/);
  });

  test('I9: a row that is not what the log folds to', () => {
    const evidence = copy();
    const [row] = evidence.sagas;
    if (row !== undefined) row.state = 'elsewhere';
    expect(checkReplay(evidence, definitions, kept)[0]).toMatchObject({ sagaId: row?.sagaId });
  });

  test('there is a corruption for every invariant', () => {
    const covered = new Set<string>([...CORRUPTIONS.map(({ invariant }) => invariant), 'I9']);
    expect(INVARIANTS.filter((one) => !covered.has(one))).toEqual([]);
  });
});
