/**
 * What an expression may cost at most, told from the sizes that its data may have (cel-go checker/cost.go with the
 * estimates of apiserver pkg/cel/library/cost.go). Costs and sizes stay below 2^64, which stands for: nobody knows.
 */
import { OWN } from './functions.js';
import type { Node } from './macros.js';

export const UNKNOWN = 2 ** 64;

/** What is known of the sizes of data: entries of lists and maps, characters of texts; and of what is below. */
export interface Sizes {
  readonly max: number;
  readonly fields?: ReadonlyMap<string, Sizes>;
  readonly keys?: Sizes;
  readonly items?: Sizes;
}

const cap = (x: number): number => Math.min(x, UNKNOWN);
const factor = (size: number, by: number): number => cap(Math.ceil(size * by));
const TRAVERSAL = 0.1;
const REGEX = 0.25;

/** Sizes of the entries of a list or map that an expression makes. */
interface Entries {
  keys: number;
  values: number;
}
interface Estimate {
  cost: number;
  /** As far as it is known. */
  size: number | undefined;
  /** Where in the data it is. */
  at?: Sizes | undefined;
  entries?: Entries | undefined;
  /** In the package's words. */
  type: string;
}
interface Local {
  size: number | undefined;
  at?: Sizes | undefined;
  entries?: Entries | undefined;
}
type Scope = ReadonlyMap<string, Local>;

/** Where the data has nothing of this name. */
const LOST: Sizes = { max: UNKNOWN };
/** Under which the scope has the data as a whole: what has no place in it is sized like that, as in Kubernetes. */
const ROOT = '';

function below(
  at: Sizes | undefined,
  scope: Scope,
  part: (at: Sizes) => Sizes | undefined,
): Sizes | undefined {
  if (!at) return scope.get(ROOT)?.at;
  return at === LOST ? LOST : (part(at) ?? LOST);
}

const sizeOf = (e: Estimate | undefined): number => e?.size ?? UNKNOWN;

const isScalar = (type: string): boolean =>
  /^(optional<)?(bool|int|uint|double|google\.protobuf\.(Timestamp|Duration))>?$/.test(type);
/** Elements of `list<T>`. */
const elementOf = (type: string): string => /^list<(.*)>$/.exec(type)?.[1] ?? 'dyn';
const isText = (type: string): boolean => type === 'string' || type === 'bytes';
/** Compared at once. */
const isOpaque = (type: string): boolean => /^(kubernetes\.|net\.)/.test(type);

interface Called {
  target: Estimate | undefined;
  args: readonly Estimate[];
  nodes: readonly Node[];
}
type Rule = (c: Called) => { cost: number; size?: number };

const traverse =
  (times = 1): Rule =>
  ({ target, args }) => {
    const size = sizeOf(target ?? args[0]);
    return { cost: factor(size, times * TRAVERSAL), size };
  };
const parse: Rule = ({ args }) => ({ cost: factor(sizeOf(args[0]), TRAVERSAL) });
const argument: Rule = ({ args }) => ({ cost: factor(sizeOf(args[0]), TRAVERSAL) });
const regex: Rule = ({ target, args }) =>
  target
    ? {
        cost: cap(factor(cap(sizeOf(target) + 1), TRAVERSAL) * factor(sizeOf(args[0]), REGEX)),
        size: sizeOf(target),
      }
    : { cost: 1 };
/** Looks at each item once, at each character of each text. */
const perItem: Rule = ({ target }) => {
  if (!target?.type.startsWith('list')) return { cost: factor(sizeOf(target), TRAVERSAL) };
  const item = target.at?.items?.max ?? UNKNOWN;
  return { cost: cap(sizeOf(target) * (1 + (isText(elementOf(target.type)) ? factor(item, TRAVERSAL) : 0))) };
};
const product =
  (by: number): Rule =>
  ({ args }) => ({ cost: cap(1 + sizeOf(args[0]) * sizeOf(args[1]) * by) });
const fixed =
  (cost: number): Rule =>
  () => ({ cost });

/** By name; what is not here costs 1. */
const CALLS: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ...['lowerAscii', 'upperAscii', 'substring', 'trim', 'url'].map((n): [string, Rule] => [n, traverse()]),
  ...['isSorted', 'sum', 'max', 'min', 'indexOf', 'lastIndexOf'].map((n): [string, Rule] => [n, perItem]),
  ...['cidr', 'ip', 'isIP', 'isCIDR', 'quantity', 'isQuantity', 'semver', 'isSemver'].map(
    (n): [string, Rule] => [n, (c) => (c.target ? { cost: 1 } : parse(c))],
  ),
  ...['startsWith', 'endsWith'].map((n): [string, Rule] => [n, argument]),
  ...['matches', 'find', 'findAll'].map((n): [string, Rule] => [n, regex]),
  ['ip.isCanonical', ({ args }) => ({ cost: factor(sizeOf(args[0]), 2 * TRAVERSAL) })],
  [
    'contains',
    ({ target, args }) => ({
      cost: cap(factor(sizeOf(target), TRAVERSAL) * factor(sizeOf(args[0]), TRAVERSAL)),
    }),
  ],
  [
    'replace',
    ({ target, args }) => {
      const size = sizeOf(target);
      // What is replaced may be as short as nothing, unless it is written there.
      const from = args[0]?.at ? 0 : (args[0]?.size ?? 0);
      const to = sizeOf(args[1]);
      const longest =
        from === 0 ? cap(cap(size + 1) * to) + size : to <= from ? size : cap(Math.ceil(size / from) * to);
      return { cost: factor(size, 2 * TRAVERSAL), size: cap(longest) };
    },
  ],
  [
    'split',
    ({ target, nodes }) => {
      const limit = nodes[1]?.op === 'value' ? Number(nodes[1].args as bigint) : -1;
      return { cost: factor(sizeOf(target), 2 * TRAVERSAL), size: limit >= 0 ? limit : sizeOf(target) };
    },
  ],
  [
    'join',
    ({ target, args }) => {
      const count = sizeOf(target);
      const item = target?.at?.items?.max ?? UNKNOWN;
      const separators = args[0] ? cap(sizeOf(args[0]) * Math.max(0, count - 1)) : 0;
      const size = cap(cap(count * item) + separators);
      return { cost: factor(size, TRAVERSAL), size };
    },
  ],
  ['format', ({ target }) => ({ cost: factor(sizeOf(target), TRAVERSAL) })],
  [
    'strings.quote',
    ({ args }) => ({ ...parse({ args, target: undefined, nodes: [] }), size: cap(sizeOf(args[0]) * 2 + 2) }),
  ],
  [
    'bytes',
    ({ args }) => ({ ...parse({ args, target: undefined, nodes: [] }), size: cap(sizeOf(args[0]) * 4) }),
  ],
  [
    'string',
    ({ args }) =>
      args[0]?.type === 'bytes'
        ? { ...parse({ args, target: undefined, nodes: [] }), size: sizeOf(args[0]) }
        : { cost: 1, ...(args[0]?.type === 'string' ? { size: sizeOf(args[0]) } : {}) },
  ],
  [
    'containsIP',
    ({ args }) => ({ cost: 4 + (args[0]?.type === 'string' ? factor(sizeOf(args[0]), TRAVERSAL) : 0) }),
  ],
  [
    'containsCIDR',
    ({ args }) => ({ cost: 7 + (args[0]?.type === 'string' ? factor(sizeOf(args[0]), TRAVERSAL) : 0) }),
  ],
  ['validate', ({ args }) => ({ cost: factor(factor(sizeOf(args[0]), TRAVERSAL), 128 * REGEX) })],
  ['dyn', ({ args }) => ({ cost: 1, size: sizeOf(args[0]) })],
  ['check', fixed(350_000)],
  ['sets.contains', product(1)],
  ['sets.intersects', product(1)],
  ['sets.equivalent', product(2)],
]);

/** Names that are no variables: `sets.contains(a, b)`. */
const NAMESPACES: ReadonlySet<string> = new Set([
  'sets',
  'strings',
  'format',
  'ip',
  'optional',
  'cel',
  'jsonpatch',
]);

/** Loops: what each turn costs besides its parts, what making the answer costs, and where it begins. */
const LOOPS: Readonly<Record<string, { turn: number; around: number; makes?: 'list' | 'map' }>> = {
  all: { turn: 3, around: 1 },
  exists: { turn: 4, around: 1 },
  exists_one: { turn: 2, around: 2 },
  existsOne: { turn: 2, around: 2 },
  map: { turn: 12, around: 11, makes: 'list' },
  filter: { turn: 13, around: 11, makes: 'list' },
  transformList: { turn: 12, around: 11, makes: 'list' },
  transformMap: { turn: 3, around: 31, makes: 'map' },
  transformMapEntry: { turn: 3, around: 31, makes: 'map' },
};

const OPTIONAL: ReadonlySet<string> = new Set(['optMap', 'optFlatMap']);

/** The most that a checked expression may cost, given what its variables may be, the data as a whole first. */
export function estimateCost(root: Node, variables: Readonly<Record<string, Sizes>>): number {
  const scope = new Map(
    Object.entries(variables).map(([name, at]): [string, Local] => [name, { size: undefined, at }]),
  );
  scope.set(ROOT, { size: undefined, at: Object.values(variables)[0] });
  return estimate(root, scope).cost;
}

function estimate(node: Node, scope: Scope): Estimate {
  const type = node.checkedType?.name ?? 'dyn';
  const e = inner(node, scope, type);
  const known = e.at === LOST ? undefined : e.at?.max;
  const size = e.size ?? known ?? (isScalar(type) ? 1 : undefined);
  return { ...e, size, type };
}

type Part = Omit<Estimate, 'type'>;

function inner(node: Node, scope: Scope, type: string): Part {
  const sub = (n: Node, s = scope): Estimate => estimate(n, s);
  switch (node.op) {
    case 'value':
      return { cost: 0, size: literalSize(node.args) };
    case 'id': {
      const name = node.args as string;
      // Names of types.
      const local = scope.get(name) ?? scope.get(ROOT);
      return { cost: 1, size: local?.at ? undefined : local?.size, at: local?.at, entries: local?.entries };
    }
    case '.': {
      const [target, field] = node.args as [Node, string];
      const o = sub(target);
      const step = /^(map|dyn$|null$)/.test(o.type) ? (o.type === 'dyn' ? 0 : 1) : 1;
      return {
        cost: cap(o.cost + step),
        size: undefined,
        at: below(o.at, scope, (at) => at.fields?.get(field)),
      };
    }
    case '.?':
      return { cost: cap(sub((node.args as [Node])[0]).cost + 1), size: undefined };
    case '[]':
    case '[?]': {
      const [o, key] = (node.args as [Node, Node]).map((n) => sub(n)) as [Estimate, Estimate];
      return {
        cost: cap(o.cost + key.cost + 1),
        size: o.entries?.values,
        at: below(o.at, scope, (at) => at.items),
      };
    }
    case 'list':
    case 'map':
      return literal(node, sub);
    case '?:': {
      const [condition, a, b] = (node.args as [Node, Node, Node]).map((n) => sub(n)) as [
        Estimate,
        Estimate,
        Estimate,
      ];
      return {
        cost: cap(condition.cost + Math.max(a.cost, b.cost)),
        size: Math.max(sizeOf(a), sizeOf(b)),
        entries: joint(a.entries, b.entries),
      };
    }
    case '!_':
    case '-_': {
      const operand = node.args as Node;
      // A number with its sign is one literal.
      if (node.op === '-_' && operand.op === 'value') return { cost: 0, size: 1 };
      return { cost: cap(sub(operand).cost + 1), size: undefined };
    }
    case 'call':
    case 'rcall':
      return call(node, scope, type);
    default:
      return binary(node, sub);
  }
}

const joint = (a: Entries | undefined, b: Entries | undefined): Entries | undefined =>
  a && b && { keys: Math.max(a.keys, b.keys), values: Math.max(a.values, b.values) };

function literalSize(v: unknown): number | undefined {
  if (typeof v === 'string') return [...v].length;
  if (v instanceof Uint8Array) return v.length;
  return 1;
}

function literal(node: Node, sub: (n: Node) => Estimate): Part {
  const list = node.op === 'list';
  const message = node.checkedType?.kind === 'message';
  const args = node.args as readonly (Node | [Node, Node])[];
  let cost = list ? 10 : message ? 40 : 30;
  const entries: Entries = { keys: list ? 1 : 0, values: 0 };
  for (const a of args) {
    const [key, value] = Array.isArray(a) ? [sub(a[0]), sub(a[1])] : [undefined, sub(a)];
    cost = cap(cost + value.cost + (key?.cost ?? 0));
    entries.values = Math.max(entries.values, sizeOf(value));
    if (key) entries.keys = Math.max(entries.keys, sizeOf(key));
  }
  return { cost, size: message ? undefined : args.length, entries };
}

function binary(node: Node, sub: (n: Node) => Estimate): Part {
  const [a, b] = (node.args as [Node, Node]).map((n) => sub(n)) as [Estimate, Estimate];
  const operands = cap(a.cost + b.cost);
  const smaller = Math.min(sizeOf(a), sizeOf(b));
  const text = isText(a.type) || isText(b.type);
  switch (node.op) {
    case '&&':
    case '||':
      return { cost: operands, size: undefined };
    case 'in':
      return { cost: cap(operands + (b.type.startsWith('map') ? 1 : sizeOf(b))), size: undefined };
    case '==':
    case '!=':
      return { cost: cap(operands + (isOpaque(a.type) ? 1 : factor(smaller, TRAVERSAL))), size: undefined };
    case '<':
    case '<=':
    case '>':
    case '>=':
      return { cost: cap(operands + (text ? factor(smaller, TRAVERSAL) : 1)), size: undefined };
    case '+': {
      const list = a.type.startsWith('list');
      if (!text && !list) break;
      const size = cap(sizeOf(a) + sizeOf(b));
      return {
        cost: cap(operands + (list ? 1 : factor(size, TRAVERSAL))),
        size,
        entries: joint(a.entries, b.entries),
      };
    }
  }
  return { cost: cap(operands + 1), size: undefined };
}

function call(node: Node, scope: Scope, type: string): Part {
  const receiver = node.op === 'rcall';
  const [given, ...rest] = node.args as [string, ...unknown[]];
  const name = given.replace(OWN, '');
  const target = receiver ? (rest[0] as Node) : undefined;
  const nodes = (receiver ? rest[1] : rest[0]) as Node[];
  const space =
    target?.op === 'id' && NAMESPACES.has(target.args as string) ? (target.args as string) : undefined;
  if (name === 'has' && !receiver) {
    const [argument] = nodes;
    return { cost: estimate((argument!.args as [Node])[0], scope).cost, size: 1 };
  }
  if (space === 'cel') {
    const init = estimate(nodes[1]!, scope);
    const body = estimate(nodes[2]!, new Map(scope).set(nodes[0]!.args as string, init));
    return { ...body, cost: cap(10 + init.cost + body.cost) };
  }
  if (
    target &&
    (Object.hasOwn(LOOPS, name) || OPTIONAL.has(name)) &&
    (node.meta.alternate || node.meta.macro)
  )
    return macro(name, target, nodes, scope);
  const o = target && !space ? estimate(target, scope) : undefined;
  const args = nodes.map((n) => estimate(n, scope));
  const own = (CALLS.get(space ? `${space}.${name}` : name) ?? fixed(1))({ target: o, args, nodes });
  const cost = args.reduce((sum, a) => cap(sum + a.cost), cap(own.cost + (o?.cost ?? 0)));
  return { cost, size: isScalar(type) ? undefined : own.size };
}

/** A loop, or a step into an optional. */
function macro(name: string, target: Node, nodes: readonly Node[], scope: Scope): Part {
  const range = estimate(target, scope);
  const loop = LOOPS[name];
  const inside = new Map(scope);
  const isList = range.type.startsWith('list');
  const item: Local = { at: below(range.at, scope, (at) => at.items), size: range.entries?.values };
  const key: Local = isList
    ? { size: 1 }
    : { at: below(range.at, scope, (at) => at.keys), size: range.entries?.keys };
  const variable = (i: number): string => nodes[i]!.args as string;
  if (!loop) {
    inside.set(variable(0), { size: undefined });
    const body = estimate(nodes[1]!, inside);
    return { cost: cap(range.cost * 2 + 13 + body.cost), size: undefined };
  }
  const two = nodes.length > 2 && nodes[1]!.op === 'id' && name !== 'map';
  inside.set(variable(0), two || !isList ? key : item);
  if (two) inside.set(variable(1), item);
  const parts = nodes.slice(two ? 2 : 1).map((n) => estimate(n, inside));
  const turn = parts.reduce((sum, p) => cap(sum + p.cost), loop.turn);
  const count = sizeOf(range);
  const made = parts.at(-1);
  return {
    cost: cap(range.cost + loop.around + cap(count * turn)),
    size: loop.makes ? count : 1,
    entries: loop.makes && made ? { keys: key.size ?? UNKNOWN, values: sizeOf(made) } : undefined,
  };
}
