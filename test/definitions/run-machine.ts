/**
 * Runs a definition's machine as its author would: `createActor` with fakes in place of the steps and
 * a simulated clock.
 *
 * Guards that tests await signals: a fake notes that it was asked and answers when the test says so,
 * and time passes only when the test moves it.
 */
import {
  createActor,
  fromPromise,
  SimulatedClock,
  waitFor,
  type AnyStateMachine,
  type StateNode,
} from 'xstate';
import type { Failure } from '../../engine/core/index.ts';

/** What a fake answers to: `give` as the participant's output, `reject` as its business "no". */
export interface Asked {
  src: string;
  input: unknown;
  give(output: unknown): void;
  reject(code: string, data: unknown): void;
  /** Attempts used up, or no answer in time: the outcome is unknown. */
  fail(kind: 'failed' | 'timedOut', code: string): void;
}

/** Ids of the states that any run of a machine was in, by machine id. */
const visited = new Map<string, Set<string>>();

export function runMachine(machine: AnyStateMachine, srcs: readonly string[], input: unknown) {
  const asked: Asked[] = [];
  const clock = new SimulatedClock();
  const emitted: unknown[] = [];
  const actors = Object.fromEntries(srcs.map((src) => [src, fake(src, asked)]));
  const seen = visited.get(machine.id) ?? new Set<string>();
  visited.set(machine.id, seen);
  const actor = createActor(machine.provide({ actors }), { input, clock });
  actor.subscribe((snapshot) => {
    for (const node of snapshot._nodes as StateNode[]) seen.add(node.id);
  });
  actor.on('*', (event: unknown) => emitted.push(event));
  actor.start();
  return {
    actor,
    clock,
    emitted,
    /** Names of the steps that were asked, in order. */
    order: () => asked.map(({ src }) => src),
    /** The step's latest call, awaited. */
    async step(src: string): Promise<Asked> {
      await waitFor(actor, () => asked.some((call) => call.src === src));
      const call = asked.findLast((candidate) => candidate.src === src);
      if (call === undefined) throw new Error(`The machine has never asked for ${src}.`);
      return call;
    },
    async output(): Promise<unknown> {
      return (await waitFor(actor, ({ status }) => status === 'done')).output;
    },
    at: (state: unknown) => waitFor(actor, (snapshot) => snapshot.matches(state as never)),
  };
}

function fake(src: string, asked: Asked[]) {
  return fromPromise<unknown, unknown>(
    ({ input }) =>
      new Promise((resolve, reject) => {
        asked.push({
          src,
          input,
          give: resolve,
          reject: (code, data) => reject({ kind: 'rejected', code, message: `${code}.`, data }),
          fail: (kind, code) => reject({ kind, code, message: `${code}.` }),
        });
      }),
  );
}

/** States of the machine that no run rested in, apart from those that are only passed through (`always`). */
export function unvisited(machine: AnyStateMachine): string[] {
  const seen = visited.get(machine.id) ?? new Set();
  const all = (node: StateNode): StateNode[] => [
    node,
    ...Object.values(node.states).flatMap((child) => all(child)),
  ];
  return all(machine.root)
    .filter((node) => (node.always ?? []).length === 0 && !seen.has(node.id))
    .map((node) => node.id);
}

/** The reason that `Asked.reject` leads to. */
export function rejection(code: string, data: Failure['data']): Failure {
  return { code, message: `${code}.`, ...(data === undefined ? {} : { data }) };
}
