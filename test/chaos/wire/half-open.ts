/**
 * Lines that die without a word: each side believes that the other is there, and nothing passes any more.
 *
 * Guards that a process finds out by its own limits and goes on with new connections (I12), and that what the
 * server still holds for the dead ones (row locks of open transactions) stops nobody for good.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { defineCampaign } from '../campaign.ts';
import { mend, openWired, statementsOf, until, type Wire } from './wires.ts';

/** The client's limit for a statement is 20 s, the server's for an idle transaction 10 s; then a new connection. */
const RECOVERY_LIMIT_MS = 60_000;
/** Statements that show that a process works again. */
const SIGNS_OF_LIFE = 50;
const NEW_CONNECTIONS_DEAD_MS = 3_000;

export const halfOpen = defineCampaign({
  name: 'half-open',
  faults: 'connections to Postgres go dead without a word, new ones too for 3 s',
  sizes: { ci: { rounds: 1, perS: 10 }, release: { rounds: 15, perS: 15 } },
  run: async (open, size, say) => {
    const { stage, wires } = await openWired(open, { bus: 'postgres', perS: size.perS });
    let dead = 0;
    let slowest_ms = 0;
    for (let round = 0; round < size.rounds; round++) {
      await pause(1_000);
      const wire = stage.random.pick(wires);
      const began = performance.now();
      // In turns all lines of a process at once, and one in the middle of a transaction or an append.
      dead += round % 2 === 0 ? await silenceAll(wire) : await silenceOne(wire);
      const before = statementsOf(wire);
      await until(
        `${wire.role} ${wire.n} works again after its lines went dead`,
        RECOVERY_LIMIT_MS,
        () => statementsOf(wire) > before + SIGNS_OF_LIFE,
      );
      slowest_ms = Math.max(slowest_ms, performance.now() - began);
      say(`round ${round + 1}: ${wire.role} ${wire.n} works again; ${dead} lines went dead so far`);
    }
    mend(wires);
    const settled = await stage.settle({ say });
    return { faults: dead, settled, notes: { slowest_recovery_ms: Math.round(slowest_ms) } };
  },
});

async function silenceAll({ proxy }: Wire): Promise<number> {
  const sessions = proxy.sessions().filter((session) => !session.isSilent);
  for (const session of sessions) session.goSilent();
  proxy.blackHole = true;
  await pause(NEW_CONNECTIONS_DEAD_MS);
  proxy.blackHole = false;
  return sessions.length;
}

/** The next statement that writes never gets there, whatever its connection holds by then. */
async function silenceOne({ proxy, role }: Wire): Promise<number> {
  let silenced = 0;
  proxy.plan = ({ text }) => {
    const fits = role === 'worker' ? text === 'COMMIT' : /insert into/i.test(text);
    if (!fits || silenced > 0) return null;
    silenced += 1;
    return { kind: 'go-silent' };
  };
  await until(`a statement of ${role} that writes`, RECOVERY_LIMIT_MS, () => silenced > 0);
  proxy.plan = null;
  return silenced;
}
