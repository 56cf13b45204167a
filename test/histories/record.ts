/**
 * Records histories: `npm run histories [-- --seeds N] [--from N]`. Runs the simulation, takes from it a stream for
 * each feature of a definition that no recorded history shows yet, and writes it to `test/histories/recorded/`.
 * `--rehash` writes the state hashes of this build into all histories, after SagaState was changed on purpose.
 *
 * Guards that recorded events are never written again: files that are there are left alone, and a rehash changes
 * nothing but hashes. Only streams of runs without a violation are taken.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { AnyDefinition } from '../../engine/core/define.ts';
import type { LoggedEvent } from '../../engine/core/events.ts';
import { evolve } from '../../engine/core/evolve.ts';
import type { SagaState } from '../../engine/core/state.ts';
import { stateHash } from '../../engine/runtime/saga-store.ts';
import { simulate, type SimulationResult } from '../simulation/simulate.ts';
import { featuresIn, featuresOf } from './features.ts';
import { DEFINITIONS, FOLDER, readRecorded, recordedFiles } from './files.ts';
import { formatHistory, type History, type Line } from './format.ts';
import { replayHistory } from './replay.ts';

/** Longer streams show nothing more and make files big. */
const MOST_EVENTS = 400;

interface Candidate {
  seed: number;
  sagaId: string;
  events: readonly LoggedEvent[];
  result: SimulationResult;
}

function linesOf(
  definition: AnyDefinition,
  sagaId: string,
  events: readonly Omit<Line, 'stateHash'>[],
): Line[] {
  let state: SagaState | null = null;
  return events.map(({ version, at, event }) => {
    state = evolve(definition, sagaId, state, event, at);
    return { version, at, stateHash: stateHash(state), event };
  });
}

/** What was live, hash for hash, is what the checker of the run compared the fold with (I9). */
function toHistory(candidate: Candidate, covers: string[]): History {
  const { seed, sagaId, events, result } = candidate;
  const summary = result.evidence.summaries.get(sagaId);
  const definition = definitionOf(summary?.definition ?? '');
  const plain = events.map(({ streamVersion, at, event }) => ({
    version: streamVersion,
    at,
    event,
  }));
  return {
    head: {
      history: 1,
      covers,
      definition: definition.name,
      definitionVersion: definition.version,
      definitionHash: definition.hash,
      sagaId,
      seed,
    },
    lines: linesOf(definition, sagaId, plain),
    end: { ...summary },
  };
}

function definitionOf(name: string): AnyDefinition {
  const found = DEFINITIONS.find((definition) => definition.name === name);
  if (found === undefined) throw new Error(`There is no definition "${name}".`);
  return found;
}

/** `definition: feature` of all that is recorded. */
function covered(): Set<string> {
  const features = new Set<string>();
  for (const name of recordedFiles()) {
    const history = readRecorded(name);
    const { definition } = history.head;
    for (const feature of featuresIn(
      definition,
      history.lines.map(({ event }) => event),
    )) {
      features.add(`${definition}: ${feature}`);
    }
  }
  return features;
}

async function record(from: number, seeds: number): Promise<number> {
  const known = covered();
  const missing = new Set(
    DEFINITIONS.flatMap(({ name }) =>
      featuresOf(name).map((feature) => `${name}: ${feature}`),
    ).filter((feature) => !known.has(feature)),
  );
  for (let seed = from; seed < from + seeds && missing.size > 0; seed++) {
    const result = await simulate(seed, { drawn: 'written' });
    if (result.violations.length > 0) continue;
    for (const [sagaId, events] of result.evidence.streams) {
      if (events.length > MOST_EVENTS) continue;
      const name = result.evidence.summaries.get(sagaId)?.definition ?? '';
      const shown = featuresIn(
        name,
        events.map(({ event }) => event),
      );
      const covers = shown.filter((feature) => missing.has(`${name}: ${feature}`));
      if (covers.length === 0) continue;
      await write(toHistory({ seed, sagaId, events, result }, covers));
      for (const feature of covers) missing.delete(`${name}: ${feature}`);
    }
  }
  for (const feature of missing) console.log(`not met: ${feature}`);
  return missing.size === 0 ? 0 : 1;
}

async function write(history: History): Promise<void> {
  const { definition, definitionVersion, covers } = history.head;
  const problems = await replayHistory(history, DEFINITIONS);
  if (problems.length > 0) throw new Error(`It can't be replayed at once: ${problems.join('; ')}`);
  const slug = (covers[0] ?? '').replaceAll(/[^a-z]+/gi, '-').toLowerCase();
  const path = join(FOLDER, `${definition}-${definitionVersion}-${slug}.jsonl`);
  writeFileSync(path, formatHistory(history), { flag: 'wx' });
  console.log(`${path}: ${covers.join(', ')}`);
}

function rehash(): void {
  for (const name of recordedFiles()) {
    const history = readRecorded(name);
    const { head, lines } = history;
    const definition = definitionOf(head.definition);
    const rehashed = { ...history, lines: linesOf(definition, head.sagaId, lines) };
    writeFileSync(join(FOLDER, name), formatHistory(rehashed));
  }
  console.log(`${recordedFiles().length} histories have the state hashes of this build`);
}

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '3000' },
    from: { type: 'string', default: '1' },
    rehash: { type: 'boolean', default: false },
  },
});
if (values.rehash) rehash();
else process.exitCode = await record(Number(values.from), Number(values.seeds));
