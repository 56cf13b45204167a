/**
 * Messages that nobody can take, among healthy ones of the same partitions: each becomes a dead letter that the
 * API lists and redrives, and none holds up what is behind it.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign, type Outcome } from '../campaign.ts';
import { isInjected, partitionOf, type Evidence, type Violation } from '../checker/evidence.ts';
import type { Dice } from '../../support/dice.ts';
import type { Stage } from '../stage.ts';
import { Operator, type Letter } from './operator.ts';
import { Stranger, type Injection } from './stranger.ts';

/** Few, so that every healthy saga shares its partition with poison. */
const SHARDS = 2;
const COMMAND_PARTITIONS = 4;
const COMMAND_TOPICS = ['inventory', 'payments', 'shipping', 'notifications'].map(
  (service) => `chaos.commands.${service}`,
);
const HUGE_BYTES = 10 * 1024 * 1024;
/** What poison may cost a healthy saga, beside what one takes here without any. */
const DELAY_LIMIT_MS = 5_000;
/** Beyond it something hangs; a slow saga is told by DELAY_LIMIT_MS. */
const END_LIMIT_MS = 180_000;
const PROBES = 5;
const BURST = 10;
const LIST_LIMIT_MS = 60_000;
const LOOK_EVERY_MS = 500;

interface Poison {
  kind: string;
  headers: { [name: string]: string };
  value: string | null;
}

const reply = { ce_type: 'sagax.reply.v1', ce_specversion: '1.0' };
const command = { ce_type: 'sagax.command.v1', ce_specversion: '1.0' };

/** Each kind, as it looks in the inbox and in a command topic. */
function poisonOf(kind: string, headers: { [name: string]: string }, id: string): Poison {
  const start = { sagaId: id, namespace: 'default', definition: 'order', input: {} };
  switch (kind) {
    case 'wrong schema':
      return { kind, headers, value: JSON.stringify({ commandId: 7, sagaId: [id] }) };
    case 'unknown type':
      return { kind, headers: { ...headers, ce_type: 'sagax.wish.v1' }, value: '{}' };
    case 'unknown version': {
      const isStart = headers === reply;
      const ce_type = isStart ? 'sagax.start.v1' : 'sagax.command.v9';
      const value = JSON.stringify({ ...start, definitionVersion: 99 });
      return { kind, headers: { ...headers, ce_type }, value };
    }
    case 'null':
      return { kind, headers, value: null };
    case '10 MB':
      return { kind, headers, value: 'x'.repeat(HUGE_BYTES) };
    default:
      return { kind, headers, value: '{"sagaId": "1' };
  }
}

const KINDS = ['bad JSON', 'wrong schema', 'unknown type', 'unknown version', 'null', 'zstd batch'];

export const poison = defineCampaign({
  name: 'poison',
  faults: 'messages that nobody can take, in the inbox and in command topics',
  sizes: {
    ci: { messages: 60, huge: 2, perS: 5, nodes: 1 },
    release: { messages: 500, huge: 20, perS: 10, nodes: 2 },
  },
  async run(open, size, say): Promise<Outcome> {
    const stage = await open({
      bus: 'kafka',
      perS: size.perS,
      shards: SHARDS,
      engines: size.nodes,
      workers: size.nodes,
      kafkaProperties: {
        'message.max.bytes': String(HUGE_BYTES + 1_000_000),
        'replica.fetch.max.bytes': String(HUGE_BYTES + 1_000_000),
      },
    });
    const stranger = new Stranger(stage.servers.brokers ?? []);
    try {
      const operator = new Operator(stage.env);
      const usual_ms = await slowestOf(operator, 'before');
      say(`without poison the slowest of ${PROBES} sagas took ${usual_ms} ms`);
      const slowest_ms = await poisonAll(stage, stranger, operator, size);
      const kept = await lettersOf(operator, stranger.total);
      say(`${stranger.total} sent, ${kept.length} listed, slowest saga ${slowest_ms} ms`);
      const redriven = await redriveAll(operator, kept);
      const again = await lettersOf(operator, stranger.total);
      const settled = await stage.settle({ say, allowDeadLetter: () => true });
      settled.violations.push(
        ...judge(settled.evidence, kept),
        ...counted('listed', kept.length, stranger.total),
        ...counted('listed again', again.length, stranger.total),
        ...redriven.wrong,
      );
      if (slowest_ms > usual_ms + DELAY_LIMIT_MS) {
        const what = `a healthy saga took ${slowest_ms} ms, without poison ${usual_ms} ms`;
        settled.violations.push({ invariant: 'I12', sagaId: null, what });
      }
      const notes = { usual_ms, slowest_ms, redriven: redriven.count, refused: redriven.refused };
      return { faults: stranger.total, settled, notes };
    } finally {
      await stranger.close();
    }
  },
});

/** Bursts of poison into every partition, each with healthy sagas behind it. @returns the slowest saga, ms */
async function poisonAll(
  stage: Stage,
  stranger: Stranger,
  operator: Operator,
  size: { messages: number; huge: number },
): Promise<number> {
  const { random } = stage;
  let [slowest_ms, huge] = [0, 0];
  while (stranger.total < size.messages) {
    const burst = Array.from({ length: BURST }, (_, n) =>
      place(KINDS[(stranger.total + n) % KINDS.length] ?? '', random),
    );
    if (huge * size.messages < size.huge * stranger.total + 1 && huge < size.huge) {
      huge += 1;
      burst.push(place('10 MB', random));
    }
    const packed = burst.filter(({ kind }) => kind === 'zstd batch');
    await stranger.send(burst.filter(({ kind }) => kind !== 'zstd batch' && kind !== '10 MB'));
    for (const one of burst.filter(({ kind }) => kind === '10 MB')) await stranger.send([one]);
    // One partition, so that it is one batch.
    const [first] = packed;
    if (first !== undefined) {
      const { topic, partition, headers } = first;
      const into = { topic, partition, ...(headers === undefined ? {} : { headers }) };
      await stranger.send(
        packed.map((one) => ({ ...one, ...into })),
        'zstd',
      );
    }
    slowest_ms = Math.max(slowest_ms, await slowestOf(operator, String(stranger.total)));
  }
  return slowest_ms;
}

function place(kind: string, random: Dice): Injection {
  const isInbox = random.chance(0.5);
  const key = String(random.between(1_000, 1_000_000_000));
  const poison = poisonOf(kind, isInbox ? reply : command, key);
  return isInbox
    ? { ...poison, key, topic: 'chaos.inbox', partition: partitionOf(key, SHARDS) }
    : {
        ...poison,
        key,
        topic: random.pick(COMMAND_TOPICS),
        partition: random.between(0, COMMAND_PARTITIONS - 1),
      };
}

/** Starts some sagas at once. @returns how long the slowest took to its end, ms */
async function slowestOf(operator: Operator, round: string): Promise<number> {
  const took = await Promise.all(
    Array.from({ length: PROBES }, async (_, n) => {
      const begun = performance.now();
      const { sagaId, status } = await operator.start(`probe-${round}-${n}`);
      if (sagaId === null) throw new Error(`A healthy start was answered with ${status}.`);
      await operator.ended(sagaId, END_LIMIT_MS);
      return performance.now() - begun;
    }),
  );
  return Math.round(Math.max(...took));
}

/** The list, as soon as it has as many as it should, or at the limit. */
async function lettersOf(operator: Operator, wanted: number): Promise<Letter[]> {
  const giveUpAt = performance.now() + LIST_LIMIT_MS;
  for (;;) {
    const letters = await operator.letters();
    if (letters.length >= wanted || performance.now() > giveUpAt) return letters;
    await pause(LOOK_EVERY_MS);
  }
}

/** Redrives all. What has no body, or was cut since it is too large, is refused with the reason. */
async function redriveAll(
  operator: Operator,
  letters: readonly Letter[],
): Promise<{ count: number; refused: number; wrong: Violation[] }> {
  const found = { count: 0, refused: 0, wrong: [] as Violation[] };
  for (const letter of letters) {
    const { status, code } = await operator.redrive(letter);
    if (status === 202) found.count += 1;
    else if (code === 'PAYLOAD_REFUSED') found.refused += 1;
    else {
      const what = `the redrive of dead letter ${letter.id} was answered with ${status} ${code}`;
      found.wrong.push({ invariant: 'I4', sagaId: null, what });
    }
  }
  return found;
}

function counted(what: string, count: number, wanted: number): Violation[] {
  if (count === wanted) return [];
  const text = `${count} dead letters were ${what}, of ${wanted} poison messages`;
  return [{ invariant: 'I4', sagaId: null, what: text }];
}

/** Every injected message has its letter, and nothing else has one. */
function judge(evidence: Evidence, listed: readonly Letter[]): Violation[] {
  const placeOf = (one: { topic: string; partition: number; offset: number | string }): string =>
    `${one.topic}/${one.partition}/${one.offset}`;
  const injected = new Set(evidence.messages.filter(isInjected).map(placeOf));
  const kept = new Set(evidence.deadLetters.map(placeOf));
  const found: Violation[] = [];
  for (const place of injected) {
    if (kept.has(place)) continue;
    found.push({ invariant: 'I4', sagaId: null, what: `poison at ${place} left no dead letter` });
  }
  for (const place of [...kept, ...listed.map(placeOf)]) {
    if (injected.has(place)) continue;
    found.push({ invariant: 'I4', sagaId: null, what: `a healthy message was parked: ${place}` });
  }
  return found;
}
