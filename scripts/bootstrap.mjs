/**
 * The way in for every npm script: sets the project up if need be, then runs the real entry on the
 * project's own Node.
 *
 * Guards that `npm start` and `npm test` work from a fresh clone on a machine with any Node ≥ 18: it
 * is plain JavaScript without dependencies, installs what package-lock.json says when node_modules
 * differs from it, and hands over arguments, terminal, signals and exit code. A crash in it leaves no
 * half-done set-up that a later run takes for whole.
 *
 * Usage: node scripts/bootstrap.mjs <command> [arguments…]
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lib/lock.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const nodePath = join(
  root,
  'node_modules',
  'node',
  'bin',
  process.platform === 'win32' ? 'node.exe' : 'node',
);

/** What each npm script runs: a file of the project or of a package, and the arguments before the user's. */
const COMMANDS = {
  start: ['cli/main.ts', 'start'],
  engine: ['cli/main.ts', 'engine'],
  worker: ['cli/main.ts', 'worker'],
  api: ['cli/main.ts', 'api'],
  migrate: ['cli/main.ts', 'migrate'],
  sagax: ['cli/main.ts'],
  sim: ['test/simulation/run.ts'],
  histories: ['test/histories/record.ts'],
  bench: ['bench/main.ts'],
  chaos: ['test/chaos/main.ts'],
  test: ['node_modules/vitest/vitest.mjs', 'run'],
  check: ['scripts/check.ts'],
  format: ['node_modules/prettier/bin/prettier.cjs', '--write', '--log-level', 'warn', '.'],
  setup: [],
};

/** Longest wait for another set-up of the same checkout; an install over a slow line takes minutes. */
const SETUP_WAIT_MS = 15 * 60_000;
const PROGRESS_EVERY_MS = 10_000;
const PARENT_CHECK_EVERY_MS = 500;
const NETWORK_TROUBLE =
  /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|ERR_SOCKET_TIMEOUT/;

class SetupError extends Error {}

/**
 * Whether node_modules holds what package-lock.json says. npm writes node_modules/.package-lock.json
 * as the last act of an install, scripts included, so an interrupted install never has it; and an
 * `npm install` by hand counts as well. Packages for other platforms may be missing.
 */
function isSetUp() {
  const installed = packagesIn('node_modules/.package-lock.json');
  const wanted = packagesIn('package-lock.json');
  if (wanted === null)
    throw new SetupError(
      'package-lock.json is missing or broken. Restore it: git checkout package-lock.json',
    );
  if (installed === null || !existsSync(nodePath)) return false;
  for (const [path, { version, integrity, optional }] of Object.entries(wanted)) {
    if (path === '') continue;
    const found = installed[path];
    if (
      found === undefined
        ? optional !== true
        : found.version !== version || found.integrity !== integrity
    )
      return false;
  }
  return Object.keys(installed).every((path) => wanted[path] !== undefined);
}

function packagesIn(lockfile) {
  try {
    return JSON.parse(readFileSync(join(root, lockfile), 'utf8')).packages;
  } catch {
    return null;
  }
}

/** Installs exactly what package-lock.json says. Resolves when it is whole. */
async function install() {
  const count = Object.keys(packagesIn('package-lock.json')).length - 1;
  say(
    `setting up: npm ci, up to ${count} packages (about 10 s to a minute; only when package-lock.json has changed)`,
  );
  const startedAt = Date.now();
  const seconds = () => Math.round((Date.now() - startedAt) / 1000);
  const ticker = setInterval(() => say(`still setting up (${seconds()} s)`), PROGRESS_EVERY_MS);
  try {
    const { code, errors } = await runNpmCi();
    if (code !== 0) throw new SetupError(remedyFor(code, errors));
    if (!isSetUp()) {
      throw new SetupError(
        'npm ci ended well, but node_modules is not what package-lock.json says. Likely a setting of npm keeps ' +
          'install scripts or development packages out (ignore-scripts, omit=dev, NODE_ENV=production): unset it for this project.',
      );
    }
  } finally {
    clearInterval(ticker);
  }
  say(`set up in ${seconds()} s`);
}

function runNpmCi() {
  const { command, args } = npm();
  const env = { ...process.env, PATH: pathWithoutOwnBin() };
  // The development packages are part of the set-up: they bring Node itself.
  delete env.NODE_ENV;
  const child = spawn(
    command,
    [
      ...args,
      'ci',
      '--include=dev',
      '--prefer-offline',
      '--no-audit',
      '--no-fund',
      '--loglevel=error',
    ],
    {
      cwd: root,
      env,
      stdio: ['ignore', 'inherit', 'pipe'],
      shell: process.platform === 'win32' && args.length === 0,
    },
  );
  let errors = '';
  child.stderr.on('data', (chunk) => {
    process.stderr.write(chunk);
    errors = (errors + chunk).slice(-20_000);
  });
  passSignals(child);
  return new Promise((resolvePromise, reject) => {
    child.once('error', (error) => {
      reject(
        new SetupError(
          `npm could not be started (${error.message}). Install Node.js with npm 10 or newer: https://nodejs.org`,
        ),
      );
    });
    child.once('close', (code, signal) => {
      if (signal !== null) endAs(signal);
      else resolvePromise({ code, errors });
    });
  });
}

/** The npm that runs us, when one does; else the one on the path. */
function npm() {
  const cli = process.env.npm_execpath;
  return cli !== undefined && /npm-cli\.[cm]?js$/.test(cli) && existsSync(cli)
    ? { command: process.execPath, args: [cli] }
    : { command: 'npm', args: [] };
}

/** npm ci deletes node_modules/.bin while it runs, so nothing in it may be counted on. */
function pathWithoutOwnBin() {
  const own = join(root, 'node_modules', '.bin');
  return (process.env.PATH ?? '')
    .split(delimiter)
    .filter((folder) => resolve(folder) !== own)
    .join(delimiter);
}

function remedyFor(code, errors) {
  if (NETWORK_TROUBLE.test(errors)) {
    return (
      'npm could not reach its registry. Check the network, or set the one you use: npm config set registry <url> ' +
      '(behind a proxy: HTTPS_PROXY). Then run the same command again.'
    );
  }
  if (/EACCES|EPERM|EROFS/.test(errors))
    return `npm may not write to ${join(root, 'node_modules')}. Mend its owner, then run the same command again.`;
  if (/ENOSPC/.test(errors))
    return 'The disk is full: the set-up needs about 600 MB. Make room, then run the same command again.';
  return `npm ci failed with exit code ${code}; its words are above. Mend that, then run the same command again.`;
}

/** Runs the entry on the project's Node and ends as it ends. */
function run([entry, ...before], args) {
  if (!existsSync(join(root, entry))) throw new SetupError(`${entry} is not in this checkout.`);
  const path = [join(root, 'node_modules', '.bin'), pathWithoutOwnBin()].join(delimiter);
  const child = spawn(nodePath, [join(root, entry), ...before, ...args], {
    cwd: root,
    env: { ...process.env, PATH: path },
    stdio: 'inherit',
  });
  passSignals(child);
  endWithNpm(child);
  child.once('error', (error) =>
    fail(
      new SetupError(
        `${nodePath} could not be started: ${error.message}. Delete node_modules and run again.`,
      ),
    ),
  );
  child.once('exit', (code, signal) => (signal === null ? process.exit(code) : endAs(signal)));
}

/**
 * Forwards each signal once, and outlives it until the child has ended. A terminal's Ctrl-C reaches the
 * child by itself (same process group), and npm repeats it to us: forwarding would make it two or three.
 */
function passSignals(child) {
  const seen = new Set();
  const handler = (signal) => {
    const fromTerminal = signal === 'SIGINT' && process.stdin.isTTY === true;
    if (!seen.has(signal) && !fromTerminal) child.kill(signal);
    seen.add(signal);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const signal of signals) process.on(signal, handler);
  child.once('exit', () => signals.forEach((signal) => process.off(signal, handler)));
}

/**
 * Ends the child when the npm that runs us was killed outright. Our parent is npm itself, since the
 * scripts in package.json say `exec`: without it a shell stands between, and swallows npm's signals.
 */
function endWithNpm(child) {
  if (process.env.npm_lifecycle_event === undefined) return;
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(watch);
    child.kill('SIGTERM');
  }, PARENT_CHECK_EVERY_MS);
}

/** Ends by the signal that ended the child, so that the shell sees the same. */
function endAs(signal) {
  process.exitCode = 128 + (constants.signals[signal] ?? 0);
  process.kill(process.pid, signal);
}

function say(text) {
  process.stderr.write(`sagax: ${text}\n`);
}

function fail(error) {
  say(error instanceof SetupError ? error.message : (error.stack ?? String(error)));
  process.exit(1);
}

async function main() {
  const [name, ...args] = process.argv.slice(2);
  const command = Object.hasOwn(COMMANDS, name ?? '') ? COMMANDS[name] : undefined;
  if (command === undefined) {
    throw new SetupError(
      `usage: node scripts/bootstrap.mjs <${Object.keys(COMMANDS).join('|')}> [arguments…]`,
    );
  }
  if (!isSetUp()) {
    const lock = join(root, '.sagax', 'setup.lock');
    await withLock(
      lock,
      {
        waitMs: SETUP_WAIT_MS,
        onWait: (pid) => say(`process ${pid} is setting up this checkout; waiting for it`),
      },
      async () => {
        if (!isSetUp()) await install();
      },
    );
  }
  if (command.length > 0) run(command, args);
}

main().catch(fail);
