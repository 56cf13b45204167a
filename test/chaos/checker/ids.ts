/**
 * The check of ids: I13. Reads Snowflakes as their format is documented: 41 bits of ms since 2025-01-01,
 * 10 of node id, 12 of sequence.
 */
import type { AcceptedInput, Evidence, Violation } from './evidence.ts';

const EPOCH_MS = 1_735_689_600_000;

interface Issued {
  id: string;
  sagaId: string;
  by: AcceptedInput;
}

/** I13: ids are unique across nodes, increase within one, and never carry a time that their node may not use. */
export function checkI13(evidence: Evidence): Violation[] {
  return [...shared(evidence), ...goingBack(evidence), ...aboveHighWater(evidence)];
}

/** Saga ids as they were given out: the first answer for each key made the id, later ones repeat it. */
function issuedBy({ accepted }: Evidence): Issued[] {
  const issued = new Map<string, Issued>();
  for (const input of accepted) {
    const known = issued.get(input.key);
    if (input.kind !== 'start') continue;
    if (known === undefined || input.answeredAtMs < known.by.answeredAtMs)
      issued.set(input.key, { id: input.sagaId, sagaId: input.sagaId, by: input });
  }
  return [...issued.values()];
}

function shared(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const keys = new Map<string, string>();
  const claim = (id: string, key: string): void => {
    const other = keys.get(id);
    if (other !== undefined && other !== key) {
      const what = `the id was given out for ${other} and for ${key}`;
      found.push({ invariant: 'I13', sagaId: id, what });
    }
    keys.set(id, key);
  };
  for (const { id, by } of issuedBy(evidence)) claim(id, by.key);
  for (const { key, sagaId } of evidence.startKeys) claim(sagaId, key);
  return found;
}

/**
 * Within one API process an answer that came before the next request was sent has the smaller id. Requests that
 * were sent again are left out: their id may have been made by another process, before.
 */
function goingBack(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const byProcess = new Map<string, Issued[]>();
  for (const one of issuedBy(evidence)) {
    if (one.by.isFirstTry)
      byProcess.set(one.by.process, [...(byProcess.get(one.by.process) ?? []), one]);
  }
  for (const [process, list] of byProcess) {
    const answered = [...list].sort((a, b) => a.by.answeredAtMs - b.by.answeredAtMs);
    const sent = [...list].sort((a, b) => a.by.sentAtMs - b.by.sentAtMs);
    let [next, highest] = [0, 0n];
    for (const one of sent) {
      while ((answered[next]?.by.answeredAtMs ?? Infinity) < one.by.sentAtMs) {
        const id = BigInt(answered[next++]?.id ?? 0);
        if (id > highest) highest = id;
      }
      if (BigInt(one.id) > highest) continue;
      const what = `${process} made ${one.id} after it had answered with ${highest}`;
      found.push({ invariant: 'I13', sagaId: one.sagaId, what });
    }
  }
  return found;
}

function aboveHighWater(evidence: Evidence): Violation[] {
  const found: Violation[] = [];
  const last = new Map(evidence.nodeIds.map(({ nodeId, lastMs }) => [nodeId, lastMs]));
  const sagaIds = new Set([
    ...evidence.accepted.map(({ sagaId }) => sagaId),
    ...evidence.sagas.map(({ sagaId }) => sagaId),
  ]);
  for (const sagaId of sagaIds) {
    const id = BigInt(sagaId);
    const nodeId = Number((id >> 12n) & 0x3ffn);
    const ms = Number(id >> 22n) + EPOCH_MS;
    const limit = last.get(nodeId) ?? 0;
    if (ms <= limit) continue;
    const what = `it carries ${ms} ms, but node id ${nodeId} may only use times up to ${limit}`;
    found.push({ invariant: 'I13', sagaId, what });
  }
  return found;
}
