/**
 * Commits whose reply is lost: the work is in the database, and whoever asked for it can't know.
 *
 * Guards I4 and I8 where they are hardest: after an unknown outcome nothing may be done twice, and nothing
 * dropped. Only replies to what was really committed are counted.
 */
import type { Happened } from '../../support/pg-proxy.ts';
import { defineCampaign } from '../campaign.ts';
import type { Role } from '../crew.ts';
import { mend, openWired, until, type Wire } from './wires.ts';

interface Target {
  /** What it is called in the report. */
  name: string;
  role: Role;
  matches: (text: string) => boolean;
  /** Part of all losses. */
  share: number;
}

/** Any statement that writes and stands alone: a lease, a key, a barrier's claim. */
const WRITES = /^\s*(?:with|insert|update|delete)\b/i;
const isAppend = (text: string): boolean => text.includes('INSERT INTO sagax.events');
const isPublish = (text: string): boolean => text.includes('INSERT INTO sagax.bus_messages');
const isOther = (text: string): boolean =>
  WRITES.test(text) &&
  /insert into|update |delete from/i.test(text) &&
  !isAppend(text) &&
  !isPublish(text);

export const TARGETS: readonly Target[] = [
  // The engine's commands go out with the append, so that one commit is in doubt for both.
  {
    name: 'append_and_publish',
    role: 'engine',
    matches: (text) => isAppend(text) && isPublish(text),
    share: 0.25,
  },
  { name: 'append', role: 'engine', matches: isAppend, share: 0.2 },
  { name: 'engine_other', role: 'engine', matches: isOther, share: 0.05 },
  { name: 'worker_commit', role: 'worker', matches: (text) => text === 'COMMIT', share: 0.25 },
  // Those that are no part of a commit: the replies of effect handlers.
  { name: 'worker_publish', role: 'worker', matches: isPublish, share: 0.1 },
  { name: 'worker_other', role: 'worker', matches: isOther, share: 0.05 },
  { name: 'api_publish', role: 'api', matches: isPublish, share: 0.05 },
  { name: 'api_other', role: 'api', matches: isOther, share: 0.05 },
];

/** Replies that can be lost at once in one process. */
const GAP_MS = 150;

export const replyLost = defineCampaign({
  name: 'reply-lost',
  faults: 'the reply to a commit is lost, so that its outcome is unknown',
  sizes: {
    ci: { losses: 24, perS: 15, limitMs: 120_000 },
    release: { losses: 200, perS: 20, limitMs: 300_000 },
  },
  run: async (open, size, say) => {
    const { stage, wires } = await openWired(open, { bus: 'postgres', perS: size.perS });
    const lost = new Map<string, number>();
    const wanted = new Map(
      TARGETS.map(({ name, share }) => [name, Math.max(1, Math.ceil(size.losses * share))]),
    );
    for (const wire of wires) lose(wire, lost, wanted);
    const isDone = (): boolean =>
      [...wanted].every(([name, count]) => (lost.get(name) ?? 0) >= count);
    const total = (): number => [...lost.values()].reduce((sum, count) => sum + count, 0);
    await until('all replies are lost', size.limitMs, isDone).catch((error: unknown) => {
      const of = `of ${JSON.stringify([...wanted])} there were ${JSON.stringify([...lost])}`;
      throw new Error(`${String(error)}, ${of}`, { cause: error });
    });
    mend(wires);
    say(`${total()} replies lost`);
    const settled = await stage.settle({ say });
    return { faults: total(), settled, notes: Object.fromEntries(lost) };
  },
});

/** Loses replies of one process, of each kind until there are enough of it. */
function lose(wire: Wire, lost: Map<string, number>, wanted: ReadonlyMap<string, number>): void {
  let nextAt = 0;
  const underWay = new Map<string, string>();
  wire.proxy.plan = ({ text, session, label }) => {
    const target = TARGETS.find((one) => one.role === wire.role && one.matches(text));
    if (target === undefined || performance.now() < nextAt) return null;
    if ((lost.get(target.name) ?? 0) >= (wanted.get(target.name) ?? 0)) return null;
    nextAt = performance.now() + GAP_MS;
    underWay.set(`${session} ${label}`, target.name);
    return { kind: 'lose-reply' };
  };
  wire.proxy.onHappened = ({ statement, outcome }: Happened) => {
    const name = underWay.get(`${statement.session} ${statement.label}`);
    // A write within a transaction was rolled back by the cut: a fault too, but not the one that is counted.
    if (name === undefined || outcome !== 'committed') return;
    lost.set(name, (lost.get(name) ?? 0) + 1);
  };
}
