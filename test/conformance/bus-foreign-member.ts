/** Starts `bus-member.ts` as a child process, follows what it owns, and kills it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ForeignMember } from './bus-conformance.ts';

export function spawnForeignMember(spec: object): ForeignMember {
  const script = fileURLToPath(new URL('./bus-member.ts', import.meta.url));
  const child = spawn(process.execPath, [script, JSON.stringify(spec)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const owned = new Set<string>();
  const lines = createInterface({ input: child.stdout });
  return {
    owns: async (count) => {
      for await (const line of lines) {
        owned.add(line);
        if (owned.size >= count) return;
      }
      throw new Error(`The member ended with ${owned.size} of ${count} partitions.`);
    },
    kill: async () => {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    },
  };
}
