/** Equality of the language, and lists whose order means nothing (apiserver pkg/cel/common unstructuredSetList, …MapList). */
import { CelMessage } from './literals.js';
import { CelQuantity } from './values.js';
import { charge } from './work.js';

/** Of a list of type `map`: the fields that its items are told apart by, as CEL spells them. Of a set: none. */
const associative = new WeakMap<readonly unknown[], readonly string[] | undefined>();

/** Says that the order of `list` means nothing: it is a set, or its items are told apart by `keys`. */
export function asAssociative<T extends unknown[]>(list: T, keys: readonly string[] | undefined): T {
  associative.set(list, keys);
  return list;
}

const scalar = (v: unknown): string => `${typeof v}:${String(v)}`;

/** What tells an item apart; undefined when it can have nothing. */
function identity(item: unknown, keys: readonly string[] | undefined): string | undefined {
  if (!keys) return scalar(item);
  if (typeof item !== 'object' || item === null) return undefined;
  const o = item as Record<string, unknown>;
  return JSON.stringify(keys.map((k) => scalar(Object.hasOwn(o, k) ? o[k] : undefined)));
}

function equalLists(a: readonly unknown[], b: readonly unknown[]): boolean {
  if (a.length !== b.length) return false;
  if (!associative.has(a)) return a.every((x, i) => equal(x, b[i]));
  const keys = associative.get(a);
  charge(a.length);
  const items = new Map(a.map((x) => [identity(x, keys), x]));
  return b.every((x) => {
    const id = identity(x, keys);
    return items.has(id) && (!keys || equal(items.get(id), x));
  });
}

const entriesOf = (o: object): Map<unknown, unknown> | undefined =>
  o instanceof CelMessage
    ? undefined
    : o instanceof Map
      ? o
      : Object.getPrototypeOf(o) === Object.prototype
        ? new Map(Object.entries(o))
        : undefined;

function equalMaps(a: ReadonlyMap<unknown, unknown>, b: ReadonlyMap<unknown, unknown>): boolean {
  return a.size === b.size && [...a].every(([k, x]) => b.has(k) && equal(x, b.get(k)));
}

export function equal(a: unknown, b: unknown): boolean {
  charge(1);
  if (a === b) return true;
  if (typeof a === 'number' && typeof b === 'bigint') return a === Number(b);
  if (typeof a === 'bigint' && typeof b === 'number') return Number(a) === b;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a)) return Array.isArray(b) && equalLists(a, b);
  if (a instanceof CelQuantity) return b instanceof CelQuantity && a.compare(b) === 0;
  if (a instanceof Date) return b instanceof Date && a.getTime() === b.getTime();
  if (a instanceof CelMessage) return b instanceof CelMessage && a.type === b.type && equalMaps(a, b);
  const x = entriesOf(a);
  const y = entriesOf(b);
  if (x || y) return x !== undefined && y !== undefined && equalMaps(x, y);
  return a.constructor === b.constructor && String(a) === String(b);
}

const areLists = (a: unknown, b: unknown): boolean => Array.isArray(a) && Array.isArray(b);
const areMaps = (a: unknown, b: unknown): boolean =>
  typeof a === 'object' &&
  a !== null &&
  typeof b === 'object' &&
  b !== null &&
  !!entriesOf(a) &&
  !!entriesOf(b);

/** `a + b`: what is in `a` keeps its place, what both have is taken from `b`, what only `b` has comes last. */
function plus(a: readonly unknown[], b: readonly unknown[]): unknown[] {
  const keys = associative.get(a);
  charge(a.length + b.length);
  const out = new Map(a.map((x) => [identity(x, keys), x]));
  for (const x of b) out.set(identity(x, keys), x);
  return asAssociative([...out.values()], keys);
}

/** Operators on lists and maps in place of the package's, which knows of no such lists. Undefined: the package's it is. */
export const OPERATORS: Readonly<Record<string, (a: unknown, b: unknown) => unknown>> = {
  '==': (a, b) => (areLists(a, b) || areMaps(a, b) ? equal(a, b) : undefined),
  '!=': (a, b) => (areLists(a, b) || areMaps(a, b) ? !equal(a, b) : undefined),
  in: (a, b) =>
    typeof a === 'object' && a !== null && Array.isArray(b) ? b.some((x) => equal(a, x)) : undefined,
  '+': (a, b) =>
    areLists(a, b) && associative.has(a as unknown[]) ? plus(a as unknown[], b as unknown[]) : undefined,
};
