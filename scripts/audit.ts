/**
 * `npm audit` at level high, where the registry answers it.
 *
 * Guards that no dependency with a known hole of high or critical weight goes in. Offline, or behind a registry without
 * the endpoint, it says "skipped" and passes: a build must not hang on somebody else's server. Usage: node scripts/audit.ts
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const TIMEOUT_MS = 60_000;
const MAX_OUTPUT_BYTES = 32 * 1024 * 1024;
const root = fileURLToPath(new URL('..', import.meta.url));

export interface Verdict {
  state: 'clean' | 'holes' | 'skipped';
  text: string;
}

interface Report {
  metadata?: { vulnerabilities?: { [severity: string]: number } };
  vulnerabilities?: { [name: string]: { severity: string; range: string; isDirect: boolean } };
  message?: string;
  error?: { summary?: string };
}

/** What npm's JSON says. Without counts there was no look, whatever else it has. */
export function verdictOf(json: string): Verdict {
  let report: Report;
  try {
    report = JSON.parse(json) as Report;
  } catch {
    return { state: 'skipped', text: 'skipped: npm audit gave no report' };
  }
  const counts = report.metadata?.vulnerabilities;
  if (counts === undefined) {
    const why = (report.message ?? report.error?.summary ?? 'no report').split('\n')[0];
    return { state: 'skipped', text: `skipped: the registry does not answer npm audit (${why})` };
  }
  const bad = (counts['high'] ?? 0) + (counts['critical'] ?? 0);
  if (bad === 0) return { state: 'clean', text: 'no known holes of high or critical weight' };
  const lines = Object.entries(report.vulnerabilities ?? {})
    .filter(([, { severity }]) => severity === 'high' || severity === 'critical')
    .map(([name, { severity, range }]) => `${name} ${range}: ${severity}`);
  return {
    state: 'holes',
    text: [`${bad} known holes; run npm audit, update what it names:`, ...lines].join('\n'),
  };
}

function npmAudit(): Promise<string> {
  return new Promise((resolve) => {
    const options = { cwd: root, timeout: TIMEOUT_MS, maxBuffer: MAX_OUTPUT_BYTES };
    // Exit code 1 is a report with holes in it, or none at all; the report tells which.
    execFile('npm', ['audit', '--json', '--audit-level=high'], options, (_error, stdout) =>
      resolve(stdout),
    );
  });
}

if (import.meta.main) {
  const { state, text } = verdictOf(await npmAudit());
  console.log(text);
  process.exitCode = state === 'holes' ? 1 : 0;
}
