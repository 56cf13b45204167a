/**
 * Finds every place of the engine and the workers where a promise is made or awaited, and says what it is.
 *
 * Guards that no I/O hides from the crash campaign: a call of a port, of `pg`, of kafkajs or of the file system
 * is a **site**, and gets a crash point before and after it (test/chaos/crash); whatever the types do not show to
 * be a site, a call of code that is itself looked at, or a wait without I/O is a finding. It goes by types
 * and not by names, so an alias or a helper hides nothing.
 */
import { relative } from 'node:path';
import { API, type Checker, type Project } from 'typescript/unstable/sync';
import { SyntaxKind, type Node, type SourceFile } from 'typescript/unstable/ast';
import { isWaitOnly, kindOf, unusedRules, type Kind } from './await-rules.ts';

/** One call that does I/O. Offsets are of UTF-16 units in the file's text. */
export interface Site {
  /** `<file>#<function> <callee>`, with ` (2)` and so on when a function has several: the name of its two points. */
  name: string;
  file: string;
  line: number;
  /** The call; where it is in a chain with `?.`, all of the chain. */
  start: number;
  end: number;
}

export interface Looked {
  sites: Site[];
  /** `file:line: what is wrong, and the remedy`. */
  findings: string[];
  files: number;
  /** Promises that were classified, of each kind. */
  counts: { [kind in Kind]: number };
  /** Entries of the rules that matched nothing: something new could pass under their names. */
  unused: string[];
}

/** Where a crash point belongs: what runs in an engine node or a worker. */
const LOOKED_AT = /^(engine\/(runtime|postgres|kafka)|workers)\//;
/** The memory adapters do no I/O; the embedded server is a tool of development, no part of a node. */
const LEFT_OUT = /^workers\/memory\/|^engine\/postgres\/embedded/;

const AS_PROMISE: ReadonlySet<SyntaxKind> = new Set([
  SyntaxKind.AwaitExpression,
  SyntaxKind.ReturnStatement,
  SyntaxKind.VoidExpression,
]);

/** What the rules were asked about, to tell which of them are no longer needed. */
interface Asked {
  calls: Set<string>;
  places: Set<string>;
}

/** @param root folder of a project with a tsconfig.json. @throws Error when it can't be read */
export function findSites(root: string): Looked {
  const api = new API({ cwd: root });
  try {
    const config = `${root}/tsconfig.json`;
    const project = api.updateSnapshot({ openProjects: [config] }).getProject(config);
    if (project === undefined) throw new Error(`${config} can't be opened.`);
    const looked: Looked = {
      sites: [],
      findings: [],
      files: 0,
      counts: { site: 0, inner: 0, 'handed-in': 0, combinator: 0, wait: 0 },
      unused: [],
    };
    const asked: Asked = { calls: new Set(), places: new Set() };
    for (const path of project.rootFiles) {
      const file = relative(root, path).replaceAll('\\', '/');
      if (!LOOKED_AT.test(file) || LEFT_OUT.test(file)) continue;
      const source = project.program.getSourceFile(path);
      if (source === undefined) throw new Error(`${file} can't be read.`);
      new FileLook(root, file, source, project, looked, asked).run();
      looked.files += 1;
    }
    looked.unused = unusedRules(asked.calls, asked.places);
    return looked;
  } finally {
    api.close();
  }
}

class FileLook {
  readonly #root: string;
  readonly #file: string;
  readonly #source: SourceFile;
  readonly #project: Project;
  readonly #checker: Checker;
  readonly #looked: Looked;
  readonly #asked: Asked;
  readonly #names = new Map<string, number>();

  constructor(
    root: string,
    file: string,
    source: SourceFile,
    project: Project,
    looked: Looked,
    asked: Asked,
  ) {
    this.#root = root;
    this.#file = file;
    this.#source = source;
    this.#project = project;
    this.#checker = project.checker;
    this.#looked = looked;
    this.#asked = asked;
  }

  run(): void {
    const calls: Node[] = [];
    const others: Node[] = [];
    const visit = (node: Node): void => {
      if (node.kind === SyntaxKind.CallExpression) calls.push(node);
      if (node.kind === SyntaxKind.NewExpression || node.kind === SyntaxKind.AwaitExpression) {
        others.push(node);
      }
      const { awaitModifier } = node as { awaitModifier?: unknown };
      if (node.kind === SyntaxKind.ForOfStatement && awaitModifier !== undefined) others.push(node);
      node.forEachChild(visit);
    };
    visit(this.#source);
    const types = this.#checker.getTypeAtLocation(calls);
    for (const [index, call] of calls.entries()) {
      const type = types[index];
      if (isWithResolvers(call, this.#source)) this.#madeByHand(call);
      else if (type !== undefined && mayBePromise(this.#checker.typeToString(type), call))
        this.#call(call);
    }
    for (const node of others) this.#other(node);
  }

  #call(call: Node): void {
    const signature = this.#checker.getResolvedSignature(call);
    const declaration = signature?.declaration;
    const declared = declaration?.resolve(this.#project);
    const path = declaration === undefined ? '' : placeOf(this.#root, declaration.path);
    const callee = calleeOf(call, this.#source);
    this.#asked.calls.add(`${path} ${callee}`);
    const kind = kindOf(path, declared, callee);
    if (kind === null) {
      const owner = path === '' ? 'something without a declaration' : path;
      this.#finding(
        call,
        `\`${callee}\` gives a promise of ${owner}, and nobody says whether it does I/O. Call it behind a port, or say in scripts/await-rules.ts what it is.`,
      );
      return;
    }
    this.#looked.counts[kind] += 1;
    if (kind === 'site') this.#site(call, callee);
  }

  #site(call: Node, callee: string): void {
    const whole = wholeChain(call);
    const base = `${this.#file}#${functionOf(call)} ${callee}`;
    const count = (this.#names.get(base) ?? 0) + 1;
    this.#names.set(base, count);
    this.#looked.sites.push({
      name: count === 1 ? base : `${base} (${count})`,
      file: this.#file,
      line: this.#lineOf(whole),
      start: whole.getStart(this.#source),
      end: whole.end,
    });
  }

  #other(node: Node): void {
    if (node.kind === SyntaxKind.NewExpression) {
      const made = (node as unknown as { expression: Node }).expression.getText(this.#source);
      if (made === 'Promise') this.#madeByHand(node);
      return;
    }
    if (node.kind === SyntaxKind.ForOfStatement) {
      return this.#finding(
        node,
        '`for await` does I/O at each turn, where no crash point can stand. Write a loop that awaits a call.',
      );
    }
    const operand = (node as unknown as { expression: Node }).expression;
    if (!isKnownOperand(operand)) {
      const text = operand.getText(this.#source).slice(0, 60);
      this.#finding(
        node,
        `\`await ${text}\` waits for something that is neither a call nor a promise in a variable. Name the promise, or await the call that makes it.`,
      );
    }
  }

  /** A promise made by hand may be settled by any I/O: only those that were looked at pass. */
  #madeByHand(node: Node): void {
    const place = `${this.#file}#${functionOf(node)}`;
    this.#asked.places.add(place);
    if (isWaitOnly(place)) {
      this.#looked.counts.wait += 1;
      return;
    }
    this.#finding(
      node,
      `the promise made in ${place} may be settled by I/O where no crash point stands. Await a call of a port or client, or add it to WAIT_ONLY in scripts/await-rules.ts with what settles it.`,
    );
  }

  #lineOf(node: Node): number {
    return this.#source.text.slice(0, node.getStart(this.#source)).split('\n').length;
  }

  #finding(node: Node, text: string): void {
    this.#looked.findings.push(`${this.#file}:${this.#lineOf(node)}: ${text}`);
  }
}

/** Relative to the project; a package keeps its name wherever its folder is linked to. */
function placeOf(root: string, path: string): string {
  const place = relative(root, path).replaceAll('\\', '/');
  const packages = place.indexOf('node_modules/');
  return packages === -1 ? place : place.slice(packages);
}

function isWithResolvers(call: Node, source: SourceFile): boolean {
  const { expression } = call as unknown as { expression: Node };
  return expression.getText(source) === 'Promise.withResolvers';
}

/** What has no type is a promise when it is treated as one. */
function mayBePromise(type: string, call: Node): boolean {
  if (type === 'any') return AS_PROMISE.has(call.parent.kind);
  return /\b(Promise|PromiseLike)</.test(type.split('=>')[0] ?? '');
}

/** What an `await` may stand before without a look: calls are looked at by themselves, variables where they are made. */
function isKnownOperand(node: Node): boolean {
  const parts = node as unknown as {
    expression: Node;
    left: Node;
    right: Node;
    whenTrue: Node;
    whenFalse: Node;
  };
  switch (node.kind) {
    case SyntaxKind.CallExpression:
    case SyntaxKind.NewExpression:
    case SyntaxKind.Identifier:
    case SyntaxKind.PropertyAccessExpression:
    case SyntaxKind.ElementAccessExpression:
    case SyntaxKind.NullKeyword:
      return true;
    case SyntaxKind.ParenthesizedExpression:
    case SyntaxKind.AsExpression:
    case SyntaxKind.NonNullExpression:
      return isKnownOperand(parts.expression);
    case SyntaxKind.BinaryExpression:
      return isKnownOperand(parts.left) && isKnownOperand(parts.right);
    case SyntaxKind.ConditionalExpression:
      return isKnownOperand(parts.whenTrue) && isKnownOperand(parts.whenFalse);
    default:
      return false;
  }
}

/** `a?.b().c()` is undefined as a whole when `a` is: a point around `a?.b()` alone would break that. */
function wholeChain(call: Node): Node {
  if (!/\?\./.test(call.getText())) return call;
  let node = call;
  while (goesOn(node)) node = node.parent;
  return node;
}

function goesOn(node: Node): boolean {
  const { parent } = node;
  return (
    (parent.kind === SyntaxKind.PropertyAccessExpression ||
      parent.kind === SyntaxKind.CallExpression) &&
    (parent as unknown as { expression: Node }).expression === node
  );
}

/** `this.#deps.eventLog.append` → `eventLog.append`: its last two names tell enough. */
function calleeOf(call: Node, source: SourceFile): string {
  const { expression } = call as unknown as { expression: Node };
  const names = expression.getText(source).match(/[A-Za-z_]\w*(?=[^()]*$)/g) ?? [];
  const told = names.filter((name) => name !== 'this' && name !== 'deps' && name !== 'options');
  return told.slice(-2).join('.') || expression.getText(source).slice(0, 40);
}

/** The nearest function, method or variable with a name around a node. */
function functionOf(node: Node): string {
  for (let at: Node | undefined = node.parent; at !== undefined; at = at.parent) {
    const isNamed =
      at.kind === SyntaxKind.MethodDeclaration ||
      at.kind === SyntaxKind.FunctionDeclaration ||
      at.kind === SyntaxKind.PropertyAssignment ||
      at.kind === SyntaxKind.PropertyDeclaration ||
      (at.kind === SyntaxKind.VariableDeclaration && isFunction(at));
    if (at.kind === SyntaxKind.Constructor) return 'constructor';
    const { name } = at as unknown as { name?: Node };
    if (isNamed && name !== undefined) return name.getText().replace(/^#/, '');
  }
  return 'module';
}

function isFunction(declaration: Node): boolean {
  const kind = (declaration as unknown as { initializer?: Node }).initializer?.kind;
  return kind === SyntaxKind.ArrowFunction || kind === SyntaxKind.FunctionExpression;
}
