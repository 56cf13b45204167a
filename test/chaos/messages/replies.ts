/**
 * Replies that come twice, in another order, in another partition, long after their saga's end, or from
 * nobody: none of it may change what becomes of a saga (I4, I5).
 */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign, type Outcome } from '../campaign.ts';
import { INJECTED_HEADER, type Evidence, type Violation } from '../checker/evidence.ts';
import type { Dice } from '../../support/dice.ts';
import type { Stage } from '../stage.ts';
import { FORGED, FORGERIES, forge, MISFIT, SHARDS } from './forgeries.ts';
import { Stranger, type Injection, type Seen } from './stranger.ts';

const INBOX = 'chaos.inbox';
const COMMANDS = ['inventory', 'payments', 'shipping', 'notifications', 'airline', 'hotels', 'cars']
  .concat(['bank-a', 'bank-b'])
  .map((service) => `chaos.commands.${service}`);
const FORGED_KINDS = Object.keys(FORGERIES);
/** Forgeries for each command that goes by. */
const FORGERIES_A_COMMAND = 2;
/** One command in so many is answered by an output that does not fit: its saga turns back. */
const MISFIT_SHARE = 0.02;
/** Replies that are sent again together, newest first. */
const REORDERED_AT_ONCE = 6;
const SEND_EVERY_MS = 20;
const MAX_KEPT = 20_000;

export const replies = defineCampaign({
  name: 'replies',
  faults: 'duplicated, reordered, misplaced, late and forged replies',
  sizes: {
    ci: { messages: 400, perS: 8, nodes: 1 },
    release: { messages: 10_000, perS: 20, nodes: 2 },
  },
  async run(open, size, say): Promise<Outcome> {
    const stage = await open({
      bus: 'kafka',
      perS: size.perS,
      shards: SHARDS,
      engines: size.nodes,
      workers: size.nodes,
    });
    const stranger = new Stranger(stage.servers.brokers ?? []);
    try {
      const disorder = new Disorder(stage.random);
      await stranger.watch([INBOX, ...COMMANDS], (message) => disorder.take(message));
      // A tenth is kept for sagas that have ended.
      while (stranger.total < size.messages * 0.9) {
        await pause(SEND_EVERY_MS);
        await stranger.send(disorder.due.splice(0, 500));
      }
      say(`${stranger.total} sent among ${stage.load.sagas} sagas; now for those that have ended`);
      await stage.load.stop();
      await sendLate(stage, stranger, disorder, Math.ceil(size.messages * 0.1));
      const settled = await stage.settle({ say, allowDeadLetter: () => true });
      settled.violations.push(...judge(settled.evidence));
      const kinds = [...FORGED_KINDS, 'duplicate', 'reordered', 'wrong partition', 'late'];
      const missing = kinds.filter((kind) => !stranger.sent.has(kind));
      if (missing.length > 0) throw new Error(`Nothing was sent of: ${missing.join(', ')}.`);
      return { faults: stranger.total, settled, notes: notesOf(settled.evidence, stranger) };
    } finally {
      await stranger.close();
    }
  },
});

/** Old answers of sagas that have ended, and forged ones for them. */
async function sendLate(
  stage: Stage,
  stranger: Stranger,
  disorder: Disorder,
  count: number,
): Promise<void> {
  let ended = new Set<string>();
  while (ended.size === 0) {
    const { sagas } = await stage.evidence();
    ended = new Set(sagas.flatMap(({ sagaId, endedAtMs }) => (endedAtMs === null ? [] : [sagaId])));
  }
  const late = disorder.late.filter(({ key }) => ended.has(key ?? ''));
  if (late.length === 0) throw new Error('No reply of a saga that has ended was kept.');
  const injections = Array.from({ length: count }, (_, n) => late[n % late.length] as Injection);
  await stranger.send(injections);
}

/** Makes injections of what goes by. */
class Disorder {
  /** To be sent as soon as may be. */
  readonly due: Injection[] = [];
  readonly late: Injection[] = [];
  readonly #random: Dice;
  readonly #reordered: Injection[] = [];
  #lastCommand: Seen | null = null;

  constructor(random: Dice) {
    this.#random = random;
  }

  take(message: Seen): void {
    if (this.due.length > MAX_KEPT) return;
    if (message.headers['ce_type'] === 'sagax.reply.v1') this.#disturb(message);
    if (message.headers['ce_type'] === 'sagax.command.v1') this.#forge(message);
  }

  #disturb(message: Seen): void {
    const { topic, partition, headers, value } = message;
    const copy = { topic, partition, key: message.key ?? '', headers, value };
    const draw = this.#random.next();
    if (draw < 0.35) this.due.push({ kind: 'duplicate', ...copy });
    else if (draw < 0.6) this.#reordered.push({ kind: 'reordered', ...copy });
    else if (draw < 0.75) {
      const elsewhere = (partition + this.#random.between(1, SHARDS - 1)) % SHARDS;
      this.due.push({ kind: 'wrong partition', ...copy, partition: elsewhere });
    } else if (this.late.length < MAX_KEPT) this.late.push({ kind: 'late', ...copy });
    if (this.#reordered.length >= REORDERED_AT_ONCE) {
      this.due.push(...this.#reordered.splice(0).reverse());
    }
  }

  #forge(message: Seen): void {
    const other = this.#lastCommand ?? message;
    const kinds = Array.from({ length: FORGERIES_A_COMMAND }, () =>
      this.#random.pick(FORGED_KINDS),
    );
    if (this.#random.chance(MISFIT_SHARE)) kinds.push(MISFIT);
    for (const kind of kinds) {
      const injection = forge(kind, message, other, this.#random);
      if (injection !== null) this.due.push(injection);
    }
    this.#lastCommand = message;
  }
}

/** What the checker can't know: nothing forged was believed, nothing genuine was parked, each kind met its end. */
function judge(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const believed = /^(StepSucceeded|StepRejected|StepSettled|CompensationSucceeded|StepPending)$/;
  for (const { sagaId, event, type } of evidence.events) {
    if (!believed.test(type) || !JSON.stringify(event).includes(FORGED)) continue;
    found.push({ invariant: 'I4', sagaId, what: `a forged answer was believed: ${type}` });
  }
  const injected = injectedAt(evidence);
  for (const { topic, partition, offset, code, reason } of evidence.deadLetters) {
    const kind = injected.get(`${topic}/${partition}/${offset}`);
    if (kind !== undefined && !/^(duplicate|reordered|late|wrong partition)$/.test(kind)) continue;
    const what = `${kind ?? 'a genuine message'} was parked: ${code}, ${reason}`;
    found.push({ invariant: 'I4', sagaId: null, what });
  }
  const parked = new Set(
    evidence.deadLetters.map(({ topic, partition, offset }) => `${topic}/${partition}/${offset}`),
  );
  for (const [place, kind] of injected) {
    if (kind !== 'unknown saga' || parked.has(place)) continue;
    const what = `a reply to a saga that was never started left no dead letter (${place})`;
    found.push({ invariant: 'I4', sagaId: null, what });
  }
  return found;
}

/** Kinds of the injected messages by place. A forwarded one keeps its header, and so its kind. */
function injectedAt({ messages }: Evidence): Map<string, string> {
  return new Map(
    messages.flatMap(({ topic, partition, offset, headers }) => {
      const kind = headers[INJECTED_HEADER];
      return kind === undefined ? [] : [[`${topic}/${partition}/${offset}`, kind] as const];
    }),
  );
}

function notesOf(evidence: Evidence, stranger: Stranger): { [name: string]: number } {
  return { ...Object.fromEntries(stranger.sent), parked: evidence.deadLetters.length };
}
