/**
 * CEL as Kubernetes has it: the language from a package, Kubernetes' libraries, and a meter that every step of an
 * expression passes, so that none of them can take the hub's time or memory.
 */
import type { Environment } from '@marcbachmann/cel-js';
import { equal, OPERATORS } from './equality.js';
import { keyOf, OWN, registerLibraries } from './functions.js';
import { CelMessage, giveMeanings, type Messages, type MessageTypes, paint } from './literals.js';
import { type Context, type Evaluator, hasMacro, type Node, registerMacros } from './macros.js';
import { charge, metered, TooMuchWork, type Work } from './work.js';

/** Longer expressions are not looked at. */
export const MAX_EXPRESSION = 16 * 1024;
/** What one expression may cost, in steps, as in Kubernetes (apiserver pkg/apis/cel PerCallLimit). */
export const CALL_LIMIT = 1_000_000;
/** What all expressions of one object may cost: a quarter of Kubernetes' RuntimeCELCostBudget, for a slower hub with one thread. */
export const COST_BUDGET = 2_500_000;
const MAX_COMPILED = 1000;
/** Of message types that expressions name; then what is compiled is forgotten, and they with it. */
const MAX_MESSAGE_TYPES = 500;

/** Why a text is no expression: `ERROR: <input>:1:6: …` with a picture of where. */
export interface Problem {
  wrong: string;
}

export interface Program {
  /** Type of the answer, in the language's words: `bool`, `dyn`, `list<string>` … */
  readonly type: string;
  /** Names that it reads: `oldSelf`, `authorizer` … */
  readonly names: ReadonlySet<string>;
  /** The checked syntax tree. */
  readonly root: Node;
  /** Throws what the expression throws, and {@link TooMuchWork}. Takes its cost from `work`. */
  run(values: Record<string, unknown>, work?: Work): unknown;
}

export type Compiled = Program | Problem;

/** Functions of the language itself; the package has more, which Kubernetes has not. */
const STANDARD: ReadonlySet<string> = new Set(
  `all exists exists_one map filter has bind size contains startsWith endsWith int uint double string bool bytes type dyn
   duration timestamp getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds
   getMilliseconds hasValue value or orValue none of existsOne transformList transformMap transformMapEntry optMap
   optFlatMap`.split(/\s+/),
);
/** Operands of these are looked at as a whole. */
const DEEP: ReadonlySet<string> = new Set(['==', '!=', 'in']);
const READS: ReadonlySet<string> = new Set(['+', '<', '<=', '>', '>=', 'call', 'rcall', ...DEEP]);

interface Language0 {
  base: Environment;
  owned: ReadonlySet<string>;
  optional: typeof import('@marcbachmann/cel-js').Optional;
  /** What a type named in a schema is for. */
  Duration: new (
    seconds: bigint,
    nanos: number,
  ) => object;
}
let loaded: Language0 | undefined;

/** Loads the language; before that nothing can be compiled. */
export async function loadCel(): Promise<void> {
  if (loaded) return;
  const { Environment, Optional } = await import('@marcbachmann/cel-js');
  const { Duration } = (await import('@marcbachmann/cel-js/evaluator')) as unknown as {
    Duration: Language0['Duration'];
  };
  if (loaded) return;
  const base = new Environment({
    enableOptionalTypes: true,
    homogeneousAggregateLiterals: false,
    limits: {
      maxAstNodes: 5000,
      maxDepth: 100,
      maxListElements: 1000,
      maxMapEntries: 1000,
      maxCallArguments: 16,
    },
  });
  const owned = registerLibraries(base, Optional);
  registerMacros(base, Optional);
  loaded = { base, owned, optional: Optional, Duration };
}

export const celIsLoaded = (): boolean => loaded !== undefined;

const cel = (): Language0 => {
  if (!loaded) throw new Error('CEL is not loaded');
  return loaded;
};

/** The language's optional and duration values, for those who hand values in. Needs {@link loadCel}. */
export const optionalOf = (v: unknown): unknown => cel().optional.of(v);
export const durationOf = (nanos: bigint): unknown => {
  const { Duration } = cel();
  return new Duration(nanos / 1_000_000_000n, Number(nanos % 1_000_000_000n));
};

const isNode = (v: unknown): v is Node =>
  typeof v === 'object' && v !== null && typeof (v as Node).op === 'string' && 'meta' in v;

/** All nodes below `root` with the operator of what looks at them; macros and comprehensions included. */
function walk(root: Node, visit: (node: Node, parent: string) => void): void {
  const seen = new Set<object>();
  const go = (v: unknown, parent: string): void => {
    if (typeof v !== 'object' || v === null || seen.has(v)) return;
    if (Array.isArray(v)) {
      for (const x of v) go(x, parent);
      return;
    }
    if (isNode(v)) {
      seen.add(v);
      visit(v, parent);
      go(v.args, v.op);
      if (v.meta.alternate) go(v.meta.alternate, parent);
      if (v.meta.macro) {
        seen.add(v.meta.macro);
        go(Object.values(v.meta.macro), 'macro');
      }
    } else if (Object.getPrototypeOf(v) === Object.prototype) {
      seen.add(v);
      go(Object.values(v), 'macro');
    }
  };
  go(root, '');
}

/** What looking at all of a value costs; charged on the way, so that it ends with the budget. */
function chargeDeep(v: unknown): void {
  if (typeof v === 'string') charge(v.length / 16);
  else if (typeof v === 'object' && v !== null) {
    const items = Array.isArray(v)
      ? v
      : v instanceof Map
        ? [...v.values()]
        : Object.getPrototypeOf(v) === Object.prototype
          ? Object.values(v)
          : [];
    charge(items.length + 1);
    for (const x of items) if (typeof x === 'string' || typeof x === 'object') chargeDeep(x);
  }
}

const ERROR_COST = 200;
let lastError: unknown;

/** Puts the meter into a checked tree: each step costs 1, and what is looked at as a whole costs its size. */
function meter(root: Node): void {
  walk(root, (node, parent) => {
    const own = OPERATORS[node.op];
    const theirs = node.handle;
    if (own && theirs) node.handle = (a, b, n, ev) => own(a, b) ?? theirs(a, b, n, ev);
    const { alternate, macro } = node.meta;
    const inner = alternate
      ? (ev: Evaluator, _n: Node, ctx: Context) => alternate.evaluate(ev, alternate, ctx)
      : macro
        ? (ev: Evaluator, _n: Node, ctx: Context) => macro.evaluate(ev, macro, ctx)
        : node.meta.evaluate;
    const deep = DEEP.has(parent);
    const read = READS.has(parent);
    node.evaluate = (ev, n, ctx) => {
      charge(1);
      let v: unknown;
      try {
        v = inner(ev, n, ctx);
      } catch (e) {
        // The language may forgive it and go on; to throw costs far more than a step.
        if (e !== lastError) charge(ERROR_COST);
        lastError = e;
        throw e;
      }
      if (read) {
        if (typeof v === 'string') {
          if (v.length > 16) charge(v.length / 16);
        } else if (typeof v === 'object' && v !== null) {
          if (deep) chargeDeep(v);
          else if (Array.isArray(v)) charge(v.length / 16);
        }
      }
      return v;
    };
  });
}

const callOf = (node: Node): { receiver: boolean; name: string; args: number } | undefined => {
  if (node.op !== 'call' && node.op !== 'rcall') return undefined;
  const args = node.args as [string, ...unknown[]];
  const list = (node.op === 'call' ? args[1] : args[2]) as unknown[];
  return { receiver: node.op === 'rcall', name: args[0], args: list.length };
};

/** cel-go's words for the package's: what people look for when they read an error. */
const WORDS: readonly [RegExp, string][] = [
  [/^No such key: (.*)$/, "undefined field '$1'"],
  [/^Unknown variable: (.*)$/, "undeclared reference to '$1' (in container '')"],
  [
    /^found no matching overload for '(?:[^.(]*\.)?(\w+)\((.*)\)'$/,
    "found no matching overload for '$1' applied to '($2)'",
  ],
  [/^no such overload: (\S+) (\S+) (\S+)$/, "found no matching overload for '_$2_' applied to '($1, $3)'"],
];

interface LibraryError extends Error {
  summary?: string;
  range?: { start: number };
  node?: { start?: number };
}

/** `compilation failed: …` of Kubernetes: the message, and under it the line with a mark. */
function compileError(e: LibraryError, text: string): string {
  let summary = (e.summary ?? e.message).split('\n')[0]!.replaceAll(OWN, '');
  if (e.name === 'ParseError')
    summary = `Syntax error: ${summary.replace(/^Unexpected character: (.*)$/, "token recognition error at: '$1'")}`;
  for (const [form, words] of WORDS) summary = summary.replace(form, words);
  const start = e.range?.start ?? e.node?.start ?? 0;
  // cel-go points at the dot of a field.
  const at = text[start - 1] === '.' ? start - 1 : start;
  const before = text.slice(0, at);
  const line = before.split('\n').length;
  const column = at - (before.lastIndexOf('\n') + 1);
  const source = text.split('\n')[line - 1] ?? '';
  return `ERROR: <input>:${line}:${column + 1}: ${summary}\n | ${source}\n | ${'.'.repeat(column)}^`;
}

/** What an expression says when it fails at work, without the picture of where. */
export const reasonOf = (e: unknown): string => {
  const text = ((e as LibraryError).summary ?? (e as Error).message ?? String(e)).split('\n')[0]!;
  return text.replaceAll(OWN, '').replace(/^No such key: /, 'no such key: ');
};

/** What types there are beyond the language's own: name → field → type. */
export type ObjectTypes = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** The language with a set of variables, for expressions of one purpose. What is compiled is kept, up to a bound. */
export class Language {
  readonly #variables: Readonly<Record<string, string>>;
  readonly #types: ObjectTypes;
  readonly #extend: ((environment: Environment, owned: Set<string>) => void) | undefined;
  readonly #parent: Language | undefined;
  readonly #messages: Messages | undefined;
  readonly #messageTypes = new Map<string, NonNullable<ReturnType<MessageTypes['of']>>>();
  readonly #compiled = new Map<string, Compiled>();
  #environment: Environment | undefined;
  #owned: ReadonlySet<string> = new Set();

  /**
   * `variables`: name → type in the language's words. `extend` puts more functions in. What `parent` knows is known as
   * well: types that are many are put into one that is the parent of others. `messages`: of which types values can be
   * made; such a language is no one's parent.
   */
  constructor(
    variables: Readonly<Record<string, string>>,
    types: ObjectTypes = {},
    extend?: (environment: Environment, owned: Set<string>) => void,
    parent?: Language,
    messages?: Messages,
  ) {
    this.#parent = parent;
    this.#messages = messages;
    this.#variables = variables;
    this.#types = types;
    this.#extend = extend;
  }

  compile(text: string): Compiled {
    let known = this.#compiled.get(text);
    if (!known) {
      known = this.#compile(text);
      if (this.#compiled.size >= MAX_COMPILED) this.#compiled.clear();
      this.#compiled.set(text, known);
    }
    return known;
  }

  #open(): Environment {
    if (this.#environment) return this.#environment;
    const environment = (this.#parent ? this.#parent.#open() : cel().base).clone();
    for (const [name, fields] of Object.entries(this.#types)) {
      // A class that nothing is of: such types are for checking, and may be of each other.
      environment.registerType(name, { ctor: class {}, fields });
      environment.registerOperator(`${name} == ${name}`, (a: unknown, b: unknown) => a === b);
    }
    const mine = new Set(this.#parent ? this.#parent.#owned : cel().owned);
    this.#extend?.(environment, mine);
    for (const [name, type] of Object.entries(this.#variables)) environment.registerVariable(name, type);
    this.#owned = mine;
    this.#environment = environment;
    return environment;
  }

  #forget(): void {
    this.#environment = undefined;
    this.#messageTypes.clear();
    this.#compiled.clear();
  }

  #message(name: string): ReturnType<MessageTypes['of']> {
    const known = this.#messageTypes.get(name);
    if (known) return known;
    const found = this.#messages?.(name);
    if (!found) return undefined;
    const make = class extends CelMessage {
      override get type(): string {
        return name;
      }
    };
    const environment = this.#open();
    environment.registerType(name, {
      ctor: make,
      ...(found.fields ? { fields: { ...found.fields } } : {}),
    } as never);
    environment.registerOperator(`${name} == ${name}`, equal);
    const type = { make, fields: found.fields };
    this.#messageTypes.set(name, type);
    return type;
  }

  #compile(text: string): Compiled {
    if (text.length > MAX_EXPRESSION) return { wrong: `is longer than ${MAX_EXPRESSION} characters` };
    if (this.#messageTypes.size >= MAX_MESSAGE_TYPES) this.#forget();
    const environment = this.#open();
    try {
      const painted = paint(text);
      const parsed = environment.parse(painted.text);
      const root = parsed.ast as unknown as Node;
      if (painted.literals.size > 0) {
        const nodes: Node[] = [];
        walk(root, (node) => nodes.push(node));
        giveMeanings(nodes, painted, { of: (name) => this.#message(name) }, cel().optional);
      }
      const names = new Set<string>();
      walk(root, (node) => {
        if (node.op === 'id') names.add(node.args as string);
        const call = callOf(node);
        if (!call) return;
        if (call.name === 'has' && !call.receiver) {
          const macro = hasMacro(cel().optional, node);
          if (macro) node.setMeta('macro', macro);
        }
        if (this.#owned.has(keyOf(call.receiver, call.name, call.args)))
          (node.args as [string])[0] = OWN + call.name;
        else if (!STANDARD.has(call.name))
          throw Object.assign(new Error(`undeclared reference to '${call.name}' (in container '')`), {
            range: { start: node.pos },
          });
      });
      const checked = parsed.check();
      if (!checked.valid) return { wrong: compileError(checked.error as LibraryError, text) };
      meter(root);
      return {
        type: String(checked.type),
        names,
        root,
        run: (values, work = { left: CALL_LIMIT }) => {
          const mine = { left: Math.min(CALL_LIMIT, work.left) };
          const before = mine.left;
          try {
            const answer = metered(mine, () => parsed(values) as unknown);
            // The language forgives errors in places; not this one.
            if (mine.left < 0) throw new TooMuchWork('operation cancelled: actual cost limit exceeded');
            return answer;
          } finally {
            work.left -= before - Math.max(mine.left, 0);
          }
        },
      };
    } catch (e) {
      return { wrong: compileError(e as LibraryError, text) };
    }
  }
}
