/**
 * What a handler's SQL would do to the transaction that it runs in, as far as its text tells.
 *
 * Guards that neither a comment in front nor a place behind another statement hides what ends a transaction or
 * changes it for others, and that what stands in a literal is not taken for it. Runs for each statement of a
 * handler, so the usual ones, which have neither comments nor semicolons, are told by one look.
 */

/** Statements that would end the transaction under the runtime. Savepoints of the handler's own are fine. */
const ENDS_TRANSACTION =
  /(?:^|;)\s*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b/i;
/**
 * What lasts in a transaction beyond the handler that said it, and could change what a later handler's statements
 * mean: settings (a tenant, a role, a search path), temporary tables. What a function hides is not seen.
 */
const LEAVES_TRACES =
  /(?:^|;)\s*(?:set|reset|discard|do)\b|\bset_config\s*\(|\btemp(?:orary)?\s|\bpg_temp\b/i;

/** What begins a comment, or a literal or name in quotes; each but a block comment, which may hold others, as a whole. */
const NO_CODE =
  /--[^\r\n]*|\/\*|\be'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|$)|'[^']*(?:'|$)|"[^"]*(?:"|$)|(?<![\w$])\$((?:[a-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$.*?(?:\$\1\$|$)/gis;

export function endsTransaction(text: string): boolean {
  return ENDS_TRANSACTION.test(codeOf(text));
}

export function leavesTraces(text: string): boolean {
  return LEAVES_TRACES.test(codeOf(text));
}

/** The text without its comments and literals where they matter: its semicolons are the ends of statements. */
function codeOf(text: string): string {
  const isPlain = !(text.includes(';') || text.includes('--') || text.includes('/*'));
  if (isPlain) return text;
  let code = '';
  let from = 0;
  NO_CODE.lastIndex = 0;
  for (let found = NO_CODE.exec(text); found !== null; found = NO_CODE.exec(text)) {
    code += `${text.slice(from, found.index)} `;
    if (found[0] === '/*') NO_CODE.lastIndex = endOfComment(text, found.index);
    from = NO_CODE.lastIndex;
  }
  return code + text.slice(from);
}

/** Block comments nest. */
function endOfComment(text: string, start: number): number {
  const bounds = /\/\*|\*\//g;
  bounds.lastIndex = start;
  let depth = 0;
  for (let bound = bounds.exec(text); bound !== null; bound = bounds.exec(text)) {
    depth += bound[0] === '/*' ? 1 : -1;
    if (depth === 0) return bounds.lastIndex;
  }
  return text.length;
}
