/**
 * Checks the import rules of scripts/import-rules.ts over the production folders.
 *
 * Guards against a check that looks at nothing: it fails when it has seen fewer modules than there
 * are .ts files, and when a file with imports came out without any. Usage: node scripts/check-imports.ts [folder to check, default: this project]
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cruise, type ICruiseOptions, type ICruiseResult } from 'dependency-cruiser';
import config from './import-rules.ts';

const HAS_IMPORT = /^(import|export)\b[^;]* from '/m;
/** Production, and the one part of the tests that must stand alone. */
const FOLDERS = ['engine', 'workers', 'definitions', 'api', 'cli', 'test/chaos/checker'];

function foldersIn(root: string): string[] {
  return FOLDERS.filter((folder) => existsSync(join(root, folder)));
}

function typescriptFiles(root: string): string[] {
  const found = foldersIn(root).flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((path) =>
      join(folder, path).replaceAll('\\', '/'),
    ),
  );
  return found.filter((path) => path.endsWith('.ts') && !path.includes('node_modules/'));
}

/** @returns what is wrong under `root`, one finding a line, and how many modules were looked at. */
export async function checkImports(
  root: string,
  options: ICruiseOptions = config.options ?? {},
): Promise<{ findings: string[]; modules: number }> {
  const files = typescriptFiles(root);
  const folders = foldersIn(root);
  if (files.length === 0) return { findings: ['There is no .ts file to look at.'], modules: 0 };
  const { output } = await cruise(folders, {
    ...options,
    baseDir: root,
    ruleSet: { forbidden: config.forbidden ?? [] },
    validate: true,
  });
  const { modules, summary } = output as ICruiseResult;
  const importsOf = new Map(
    modules.map(({ source, dependencies }) => [source, dependencies.length]),
  );
  const missed = files.filter((path) => {
    const imports = importsOf.get(path) ?? -1;
    return (
      imports < 0 || (imports === 0 && HAS_IMPORT.test(readFileSync(join(root, path), 'utf8')))
    );
  });
  const findings = summary.violations.map(
    ({ from, to, rule }) => `${from} → ${to}: ${rule.name}. ${commentOf(rule.name)}`,
  );
  if (missed.length > 0) {
    findings.push(
      `${missed.length} of ${files.length} files were not parsed: ${missed.join(', ')}`,
    );
  }
  return { findings, modules: files.length - missed.length };
}

function commentOf(name: string): string {
  return config.forbidden?.find((rule) => rule.name === name)?.comment ?? '';
}

if (import.meta.main) {
  const root = process.argv[2] ?? fileURLToPath(new URL('..', import.meta.url));
  const { findings, modules } = await checkImports(root);
  for (const finding of findings) console.error(finding);
  console.log(
    `${modules} modules, ${config.forbidden?.length ?? 0} rules, ${findings.length} findings`,
  );
  process.exitCode = findings.length === 0 ? 0 : 1;
}
