/**
 * Lint rule `sagax/pure-core`: no clock, chance, async or IO in engine/core.
 *
 * Guards replay (I9): what the core computes may depend on its arguments only, so that folding the log
 * again gives the same state and effects. `new Date(ms)` is allowed, since it reads no clock.
 */

interface Node {
  type: string;
  name?: string;
  async?: boolean;
  await?: boolean;
  computed?: boolean;
  arguments?: Node[];
  callee?: Node;
  object?: Node;
  property?: Node;
  source?: { value?: unknown };
}
interface Reference {
  identifier: Node;
  isValueReference?: boolean;
}
interface GlobalScope {
  /** References to names that nothing declares. */
  through: Reference[];
  /** Declared names; those of the environment have no definition in the file. */
  set: Map<string, { defs: unknown[]; references: Reference[] }>;
}
interface RuleContext {
  options: readonly unknown[];
  report(finding: { node: Node; message: string }): void;
  sourceCode: { scopeManager: { globalScope: GlobalScope | null } };
}

const CLOCK = 'reads a clock; let the caller pass the time in (ms)';
const CHANCE = 'is chance; let the caller pass the value in';
const ASYNC = 'is async; the core computes, its caller waits';
const IO = "is IO or the process's environment; let the caller pass the value in";

/** Global names that the core may not use as values. */
const BANNED_GLOBALS = new Map([
  ['performance', CLOCK],
  ['setTimeout', CLOCK],
  ['setInterval', CLOCK],
  ['setImmediate', CLOCK],
  ['clearTimeout', CLOCK],
  ['clearInterval', CLOCK],
  ['queueMicrotask', ASYNC],
  ['Promise', ASYNC],
  ['crypto', CHANCE],
  ['process', IO],
  ['Buffer', IO],
  ['console', IO],
  ['fetch', IO],
  ['require', IO],
  ['globalThis', IO],
  ['global', IO],
]);

/** Packages that the core may import beside its own files. */
const ALLOWED_PACKAGES = new Set(['xstate', 'zod']);

const pureCore = {
  meta: {
    type: 'problem',
    schema: [
      {
        type: 'object',
        properties: { allow: { type: 'array', items: { type: 'string' } } },
        additionalProperties: false,
      },
    ],
  },
  create(context: RuleContext) {
    // Option `allow`: global names that this file may use all the same.
    const { allow = [] } = (context.options[0] ?? {}) as { allow?: readonly string[] };
    const refuse = (node: Node, what: string, why: string): void =>
      context.report({ node, message: `${what} ${why} (I9).` });
    const refuseAsync = (node: Node): void => {
      if (node.async === true) refuse(node, 'An async function', ASYNC);
    };
    const checkImport = (node: Node): void => {
      const source = node.source?.value;
      if (typeof source !== 'string' || source.startsWith('.') || ALLOWED_PACKAGES.has(source))
        return;
      refuse(node, `The import of "${source}"`, 'is neither of the core nor xstate or zod');
    };
    return {
      FunctionDeclaration: refuseAsync,
      FunctionExpression: refuseAsync,
      ArrowFunctionExpression: refuseAsync,
      AwaitExpression: (node: Node) => refuse(node, 'await', ASYNC),
      ForOfStatement(node: Node) {
        if (node.await === true) refuse(node, 'for await', ASYNC);
      },
      ImportExpression: (node: Node) => refuse(node, 'import()', ASYNC),
      ImportDeclaration: checkImport,
      ExportNamedDeclaration: checkImport,
      ExportAllDeclaration: checkImport,
      NewExpression(node: Node) {
        if (isGlobal(node.callee, 'Date') && node.arguments?.length === 0) {
          refuse(node, 'new Date() without an argument', CLOCK);
        }
      },
      CallExpression(node: Node) {
        if (isGlobal(node.callee, 'Date')) refuse(node, 'Date()', CLOCK);
      },
      MemberExpression(node: Node) {
        const name = node.computed === true ? undefined : node.property?.name;
        if (isGlobal(node.object, 'Date') && name === 'now') refuse(node, 'Date.now', CLOCK);
        if (isGlobal(node.object, 'Math') && name === 'random') refuse(node, 'Math.random', CHANCE);
      },
      'Program:exit'() {
        for (const { identifier, isValueReference } of referencesToGlobals(context)) {
          const name = identifier.name ?? '';
          const why = BANNED_GLOBALS.get(name);
          if (why === undefined || isValueReference === false || allow.includes(name)) continue;
          refuse(identifier, name, why);
        }
      },
    };
  },
};

function referencesToGlobals(context: RuleContext): Reference[] {
  const scope = context.sourceCode.scopeManager.globalScope;
  if (scope === null) return [];
  const ofEnvironment = [...scope.set.values()].filter((variable) => variable.defs.length === 0);
  return [...scope.through, ...ofEnvironment.flatMap((variable) => variable.references)];
}

function isGlobal(node: Node | undefined, name: string): boolean {
  return node?.type === 'Identifier' && node.name === name;
}

export default { meta: { name: 'sagax' }, rules: { 'pure-core': pureCore } };
