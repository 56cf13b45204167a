/**
 * `npm run check`: everything that is checked without running the product.
 *
 * Guards that one command, the one that CI runs, says whether a change may go in. Parts run side by
 * side; each prints one line, and its output when it failed. Usage: npm run check [-- part…]
 */
import { execFile } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Name → what is checked, and the arguments of Node that check it. Longest first, so that none waits at the end. */
const PARTS: { [name: string]: { what: string; args: string[] } } = {
  format: {
    what: 'formatting (prettier)',
    args: [
      'node_modules/prettier/bin/prettier.cjs',
      '--check',
      '--cache',
      '--log-level',
      'warn',
      '.',
    ],
  },
  types: { what: 'types (TypeScript 7)', args: ['node_modules/typescript/bin/tsc', '-p', '.'] },
  lint: {
    what: 'lint, type-aware (oxlint)',
    args: ['node_modules/oxlint/bin/oxlint', '--format', 'unix', '.'],
  },
  dead: {
    what: 'dead code (knip)',
    args: ['node_modules/knip/bin/knip.js', '--no-progress', '--no-config-hints'],
  },
  audit: { what: 'known vulnerabilities, high and up (npm audit)', args: ['scripts/audit.ts'] },
  imports: { what: 'import rules (dependency-cruiser)', args: ['scripts/check-imports.ts'] },
  awaits: { what: 'I/O without a crash point', args: ['scripts/check-awaits.ts'] },
  tidy: { what: 'headers, lengths, leftovers (tidy)', args: ['scripts/tidy.ts'] },
};

/** No part takes nearly as long; one that hangs must not hang the build. */
const PART_TIMEOUT_MS = 5 * 60_000;
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

interface Outcome {
  ok: boolean;
  output: string;
  ms: number;
}

function runPart(args: string[]): Promise<Outcome> {
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const options = { cwd: root, timeout: PART_TIMEOUT_MS, maxBuffer: MAX_OUTPUT_BYTES };
    execFile(process.execPath, args, options, (error, stdout, stderr) => {
      const cut = error?.killed === true ? `\nended after ${PART_TIMEOUT_MS} ms` : '';
      const output = `${stdout}${stderr}${cut}`.trim();
      resolve({ ok: error === null, output, ms: performance.now() - startedAt });
    });
  });
}

function report(name: string, what: string, { ok, output, ms }: Outcome): void {
  const seconds = (ms / 1000).toFixed(1);
  if (!ok) console.log(output.replaceAll(root, ''));
  // A part that could not look says so in its first line; it is no failure, and no success to rely on.
  const skipped = ok && output.startsWith('skipped') ? `: ${output.split('\n')[0] ?? ''}` : '';
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${name}: ${what}, ${seconds} s${skipped}`);
}

async function main(wanted: string[]): Promise<void> {
  const unknown = wanted.filter((name) => !Object.hasOwn(PARTS, name));
  if (unknown.length > 0) {
    console.error(
      `There is no part ${unknown.join(', ')}; there are ${Object.keys(PARTS).join(', ')}.`,
    );
    process.exitCode = 2;
    return;
  }
  const queue = Object.entries(PARTS).filter(
    ([name]) => wanted.length === 0 || wanted.includes(name),
  );
  const total = queue.length;
  const failed: string[] = [];
  const work = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const [name, { what, args }] = next;
      const outcome = await runPart(args);
      report(name, what, outcome);
      if (!outcome.ok) failed.push(name);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  console.log(
    failed.length === 0 ? `check: all ${total} parts passed` : `check: FAILED ${failed.join(', ')}`,
  );
  process.exitCode = failed.length === 0 ? 0 : 1;
}

await main(process.argv.slice(2));
