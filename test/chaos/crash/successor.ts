/**
 * The next start after a death in the set-up: all of Sagax in one process, on what the dead one has left.
 *
 * Guards that it comes up by itself, that what upkeep had begun is ended by it, and that sagas run through it to their right
 * ends, with nothing for the checker to find.
 */
import { definitions } from '../../../definitions/index.ts';
import { eventually, startProcess, type SagaxProcess } from '../../e2e/processes.ts';
import { check } from '../checker/check.ts';
import type { AcceptedInput, Evidence, Violation } from '../checker/evidence.ts';
import { readEvidence } from '../checker/read.ts';
import { installWitness } from '../checker/witness.ts';
import { checkReplay, readKeptStates } from '../replay.ts';
import { areAtRest, withPools } from '../stage.ts';
import { judgeEnds } from './campaign.ts';
import { COMMAND_PARTITIONS, oldRows, type Ground, type Scene } from './scenes.ts';
import { shapes } from './shapes.ts';

const LIMIT_MS = 60_000;
/** Of those that need nobody: one that completes, one that is compensated. */
const SHAPES = shapes.filter(({ name }) => name === 'completes' || name === 'compensates');
const SAGAS_OF_EACH = 2;
/** Last words kept of a process that failed. */
const SAID_CHARACTERS = 1_500;

export interface Aftermath {
  violations: Violation[];
  /** Null when no saga could be run. */
  evidence: Evidence | null;
}

/** @param after what died, and where; for messages */
export async function startAfter(scene: Scene, ground: Ground, after: string): Promise<Aftermath> {
  const process = startProcess('start', { ...ground.env });
  try {
    const evidence = await use(scene, ground, process);
    const kept = await readKeptStates(ground.urls);
    const violations = [
      ...check(evidence),
      ...checkReplay(evidence, definitions, kept),
      ...judgeEnds(evidence).violations,
    ];
    return {
      evidence,
      violations: violations.map((one) => ({ ...one, what: `${after}: ${one.what}` })),
    };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const said = process.said().slice(-SAID_CHARACTERS);
    const what = `${after}: the next start failed: ${why}\n${said}`;
    return { evidence: null, violations: [{ invariant: 'I12', sagaId: null, what }] };
  } finally {
    process.kill('SIGKILL');
    await process.ended;
  }
}

async function use(scene: Scene, ground: Ground, process: SagaxProcess): Promise<Evidence> {
  const { urls, topicPrefix, brokers } = ground;
  const gone = process.ended.then((code) => {
    throw new Error(`it ended by itself (${code})`);
  });
  gone.catch(() => undefined);
  const late = AbortSignal.timeout(LIMIT_MS);
  const inTime = <T>(work: Promise<T>): Promise<T> =>
    Promise.race([
      work,
      gone,
      new Promise<never>((_, reject) =>
        late.addEventListener('abort', () => reject(new Error(`not in ${LIMIT_MS} ms`))),
      ),
    ]);
  const [, api = ''] = await inTime(process.line(/Sagax is up at (\S+)/));
  if (scene.isUpkeep) {
    await inTime(
      eventually('the week that is over is gone', LIMIT_MS, async () =>
        (await oldRows(ground)) === 0 ? true : null,
      ),
    );
  }
  await installWitness(urls);
  const accepted = await inTime(Promise.all(orders().map((order) => startOrder(api, order))));
  await inTime(
    withPools(urls, (pools) =>
      eventually('all sagas have ended', LIMIT_MS, async () =>
        (await areAtRest(pools, accepted.length)) ? true : null,
      ),
    ),
  );
  process.kill('SIGTERM');
  const code = await process.ended;
  if (code !== 0) throw new Error(`its drain ended in ${code}`);
  return readEvidence({
    ...{ logUrls: urls, brokers, topicPrefix, accepted },
    commandPartitions: COMMAND_PARTITIONS,
  });
}

interface Order {
  key: string;
  definition: string;
  input: object;
}

function orders(): Order[] {
  return SHAPES.flatMap(({ name, draw }) =>
    Array.from({ length: SAGAS_OF_EACH }, (_, n) => {
      const { definition, input } = draw(n);
      return { key: `${name}-${n}`, definition, input };
    }),
  );
}

async function startOrder(api: string, { key, ...body }: Order): Promise<AcceptedInput> {
  const sentAtMs = performance.now();
  const answer = await fetch(`${api}/v1/sagas`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(LIMIT_MS),
  });
  const text = await answer.text();
  if (answer.status !== 202) throw new Error(`a start was answered by ${answer.status} ${text}`);
  const { sagaId } = JSON.parse(text) as { sagaId: string };
  const times = { sentAtMs, answeredAtMs: performance.now(), isFirstTry: true };
  return { kind: 'start', sagaId, id: sagaId, key, process: 'the next start', ...times };
}
