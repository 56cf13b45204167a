/**
 * `npm run chaos`: runs campaigns of faults on Sagax as it is deployed, each ending in the checker.
 *
 * Guards that the exit code says whether all of them were clean, and that what was found is kept as it comes in.
 * See docs/RELIABILITY.md.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import {
  closeStages,
  isClean,
  runCampaign,
  type Campaign,
  type ResultRow,
  type Size,
} from './campaign.ts';
import { campaigns } from './campaigns/index.ts';
import { emptyResults, merge, table, writeDocument, type Results } from './report.ts';

const HELP = `npm run chaos -- [options]

  --size ci|release  how many faults; default: release
  --only a,b         these campaigns; default: all
  --seed N           draws load and faults; default: 1
  --json FILE        results as JSON, rewritten after each campaign
  --from a.json,b.json
                     run nothing: the rows of these files, of each campaign the latest
  --docs             put the table into docs/RELIABILITY.md
  --list             names of the campaigns, and what each does
  --help

Exit code: 0 all clean, 1 violations, failures or unexpected ends, 64 wrong usage.
`;
/** Violations shown of one campaign; the JSON has all. */
const SHOWN = 20;
const USAGE = 64;

interface Options {
  size: Size;
  chosen: readonly Campaign[];
  seed: number;
  json: string | undefined;
  from: readonly string[] | null;
  docs: boolean;
}

function parse(args: string[]): Options | string {
  const { values } = parseArgs({
    args,
    options: {
      size: { type: 'string', default: 'release' },
      only: { type: 'string' },
      seed: { type: 'string', default: '1' },
      json: { type: 'string' },
      from: { type: 'string' },
      docs: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return HELP;
  if (values.list) return campaigns.map(({ name, faults }) => `${name}: ${faults}\n`).join('');
  if (values.size !== 'ci' && values.size !== 'release') throw new Error('--size is ci or release');
  if (!/^\d+$/.test(values.seed)) throw new Error('--seed is a whole number');
  const names = values.only?.split(',');
  const unknown = (names ?? []).filter((name) => !campaigns.some((one) => one.name === name));
  if (unknown.length > 0)
    throw new Error(`there is no campaign ${unknown.join(', ')}; --list names them`);
  const { size } = values;
  const chosen = campaigns.filter(({ name, sizes }) =>
    names === undefined ? sizes[size] !== null : names.includes(name),
  );
  return {
    size,
    chosen,
    seed: Number(values.seed),
    json: values.json,
    from: values.from?.split(',') ?? null,
    docs: values.docs,
  };
}

function report(row: ResultRow): void {
  const ends = Object.entries(row.ends).map(([status, n]) => `${n} ${status}`);
  const notes = Object.entries(row.notes).map(([name, value]) => `, ${name} ${value}`);
  console.log(
    `${isClean(row) ? 'clean' : 'FAILED'} ${row.campaign}: ${row.faults} faults, ${row.sagas} sagas (${ends.join(', ')}), ` +
      `${row.violations.length} violations, ${row.unexpected_ends.length} unexpected ends, ${row.duration_s} s${notes.join('')}`,
  );
  for (const { invariant, sagaId, what } of row.violations.slice(0, SHOWN))
    console.log(`  ${invariant}${sagaId === null ? '' : ` saga ${sagaId}`}: ${what}`);
  if (row.violations.length > SHOWN) console.log(`  … and ${row.violations.length - SHOWN} more`);
  if (row.error !== null) console.log(`  no result: ${row.error}`);
  for (const end of row.unexpected_ends) console.log(`  unexpected: ${end}`);
}

class UsageError extends Error {}

async function run(options: Options): Promise<Results> {
  const { size, seed, json } = options;
  const results = emptyResults();
  for (const campaign of options.chosen) {
    const say = (text: string): void =>
      void process.stderr.write(`chaos ${campaign.name}: ${text}\n`);
    say(`${campaign.faults}, size ${size}, seed ${seed}`);
    const row = await runCampaign(campaign, size, seed, say);
    results.rows.push(row);
    report(row);
    if (json !== undefined) await writeFile(json, `${JSON.stringify(results, null, 1)}\n`);
  }
  return results;
}

async function read(files: readonly string[]): Promise<Results> {
  const runs = files.map(async (file) => {
    try {
      return JSON.parse(await readFile(file, 'utf8')) as Results;
    } catch (error) {
      throw new UsageError(`${file} is no result of --json: ${(error as Error).message}`);
    }
  });
  return merge(
    await Promise.all(runs),
    campaigns.map(({ name }) => name),
  );
}

async function main(): Promise<number> {
  let options: Options | string;
  try {
    options = parse(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`chaos: ${(error as Error).message}. See --help.\n`);
    return USAGE;
  }
  if (typeof options === 'string') {
    process.stdout.write(options);
    return 0;
  }
  const results = await (options.from === null ? run(options) : read(options.from));
  if (options.docs) await writeDocument(results);
  console.log(`\n${table(results)}`);
  return results.rows.every(isClean) ? 0 : 1;
}

// A run that is broken off leaves no process, server or folder behind.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => void closeStages().finally(() => process.exit(130)));

process.exitCode = await main().catch((error: unknown) => {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`chaos: ${error.message}\n`);
  return USAGE;
});
