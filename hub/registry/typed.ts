/**
 * Objects walked by their schema, as server-side apply sees them (sigs.k8s.io/structured-merge-diff typed): structs and
 * maps go field by field, keyed lists and sets element by element, everything else is one leaf. Where the schema says
 * nothing, objects are maps and lists are leaves.
 */
import { resolve, type Schema } from '../../api/kinds/schema.js';
import { deepEqual, isPlainObject, setOwn } from '../../api/meta/json.js';
import { FieldSet, field, keyElement, type Path, pathText, setElement } from './fieldset.js';

type Json = Record<string, unknown>;

/** A node of the schema: `named` fields are a struct's own, which count as there whenever the struct is. */
interface MapNode {
  fields: Readonly<Record<string, Schema>>;
  others: Schema | undefined;
  /** Fields that are neither named nor `others` may be there. */
  open: boolean;
}
interface ListNode {
  items: Schema | undefined;
  /** Absent: a set of scalars. */
  keys: readonly string[] | undefined;
}

interface Node {
  map: MapNode | undefined;
  list: ListNode | undefined;
}
/** Looked up for every part of every object that is walked. */
const nodes = new WeakMap<Schema, Node>();
const OPEN: Node = { map: { fields: {}, others: undefined, open: true }, list: undefined };

function nodeOf(schema: Schema | undefined): Node {
  if (!schema) return OPEN;
  let node = nodes.get(schema);
  if (!node) {
    node = { map: mapOf(schema), list: listOf(schema) };
    nodes.set(schema, node);
  }
  return node;
}

/** The schema's map, or undefined when it is none or one leaf. */
export const mapNode = (schema: Schema | undefined): MapNode | undefined => nodeOf(schema).map;

/** The schema's list, or undefined when it is none or one leaf. */
export const listNode = (schema: Schema | undefined): ListNode | undefined => nodeOf(schema).list;

function mapOf(schema: Schema): MapNode | undefined {
  const { schema: s } = resolve(schema);
  if (schema['x-kubernetes-map-type'] === 'atomic' || s['x-kubernetes-map-type'] === 'atomic')
    return undefined;
  // A schema that says nothing of the type stands for anything.
  const open = s['x-kubernetes-preserve-unknown-fields'] ?? (!s.type && !s.properties);
  if (!s.properties && !s.additionalProperties && !open) return undefined;
  return { fields: s.properties ?? {}, others: s.additionalProperties, open };
}

function listOf(schema: Schema): ListNode | undefined {
  const { schema: s } = resolve(schema);
  const type = schema['x-kubernetes-list-type'] ?? s['x-kubernetes-list-type'];
  if (s.type !== 'array' || (type !== 'map' && type !== 'set')) return undefined;
  const keys = schema['x-kubernetes-list-map-keys'] ?? s['x-kubernetes-list-map-keys'];
  return { items: s.items, keys: type === 'map' ? (keys ?? []) : undefined };
}

/** The schema of a member. */
export const below = (node: MapNode, key: string): Schema | undefined =>
  Object.hasOwn(node.fields, key) ? node.fields[key] : node.others;

/** The path element of one item, or why it has none. */
export function elementOf(list: ListNode, item: unknown): { element: string } | { wrong: string } {
  if (!list.keys) {
    if (typeof item === 'object')
      return { wrong: 'associative list without keys has an element that is not a scalar' };
    return { element: setElement(item) };
  }
  if (!isPlainObject(item)) return { wrong: 'associative list with keys may not have non-map elements' };
  const keys: Json = {};
  for (const key of list.keys) {
    const given = Object.hasOwn(item, key) ? item[key] : defaultOf(list.items, key);
    if (given !== undefined && given !== null) setOwn(keys, key, given);
  }
  if (Object.keys(keys).length > 0) return { element: keyElement(keys) };
  const names = list.keys.map((k) => JSON.stringify(k)).join(' ');
  return {
    wrong: `associative list with keys has an element that omits all key fields [${names}] (and doesn't have default values for any key fields)`,
  };
}

function defaultOf(items: Schema | undefined, key: string): unknown {
  const node = items && mapNode(items);
  return node && Object.hasOwn(node.fields, key) ? node.fields[key]!.default : undefined;
}

/** Items by element, in order of first appearance. Undefined when an item has no element: then the list is one leaf. */
function indexed(list: ListNode, items: readonly unknown[]): Map<string, unknown[]> | undefined {
  const out = new Map<string, unknown[]>();
  for (const item of items) {
    const e = elementOf(list, item);
    if ('wrong' in e) return undefined;
    const there = out.get(e.element);
    if (there) there.push(item);
    else out.set(e.element, [item]);
  }
  return out;
}

const isMap = (v: unknown): v is Json | undefined => v === undefined || isPlainObject(v);
const isList = (v: unknown): v is unknown[] | undefined => v === undefined || Array.isArray(v);
const size = (v: object | undefined): number => (v ? Object.keys(v).length : 0);

/** The fields of what someone applies: all leaves, list items and map entries; structs are there through their fields. */
export function fieldsOf(value: unknown, schema: Schema | undefined): FieldSet {
  const out = new FieldSet();
  collect(value, schema, [], out);
  return out;
}

/** `path` is where the walk is: one list that grows and shrinks. So below. */
function collect(value: unknown, schema: Schema | undefined, path: string[], out: FieldSet): void {
  const map = isPlainObject(value) ? mapNode(schema) : undefined;
  if (map) {
    for (const [key, v] of Object.entries(value as Json)) {
      path.push(field(key));
      collect(v, below(map, key), path, out);
      if (!Object.hasOwn(map.fields, key) || (isPlainObject(v) && size(v) === 0)) out.insert(path);
      path.pop();
    }
    return;
  }
  const list = Array.isArray(value) ? listNode(schema) : undefined;
  const items = list && indexed(list, value as unknown[]);
  if (!items) {
    out.insert(path);
    return;
  }
  for (const [element, same] of items) {
    path.push(element);
    if (same.length === 1) collect(same[0], list!.items, path, out);
    out.insert(path);
    path.pop();
  }
}

/** What is wrong with an applied object: fields that no schema knows, items without a key, items that are there twice. */
export function problemsOf(value: unknown, schema: Schema | undefined, path: Path = []): string[] {
  const map = isPlainObject(value) ? mapNode(schema) : undefined;
  if (map) {
    return Object.entries(value as Json).flatMap(([key, v]) => {
      const at = [...path, field(key)];
      const known = map.open || map.others !== undefined || Object.hasOwn(map.fields, key);
      return known ? problemsOf(v, below(map, key), at) : [`${pathText(at)}: field not declared in schema`];
    });
  }
  const list = Array.isArray(value) ? listNode(schema) : undefined;
  if (!list) return [];
  const seen = new Set<string>();
  return (value as unknown[]).flatMap((item, i) => {
    const e = elementOf(list, item);
    if ('wrong' in e) return [`${pathText(path)}: element ${i}: ${e.wrong}`];
    if (seen.has(e.element)) return [`${pathText(path)}: duplicate entries for key ${pathText([e.element])}`];
    seen.add(e.element);
    return problemsOf(item, list.items, [...path, e.element]);
  });
}

/** The paths, by index, of all lists, maps and structs of an applied object that are one leaf. */
export function atomicsOf(value: unknown, schema: Schema | undefined, path = ''): string[] {
  if (isPlainObject(value)) {
    const map = mapNode(schema);
    if (!map) return [path];
    return Object.entries(value as Json).flatMap(([key, v]) =>
      atomicsOf(v, below(map, key), `${path}.${key}`),
    );
  }
  if (!Array.isArray(value)) return [];
  const list = listNode(schema);
  if (!list) return [path];
  return value.flatMap((item, i) => atomicsOf(item, list.items, `${path}[${i}]`));
}

/** No path is in more than one of them. */
export interface Comparison {
  added: FieldSet;
  modified: FieldSet;
  removed: FieldSet;
}

/** What changes from `before` to `after`. Parts that both share are not looked into. */
export function compare(before: unknown, after: unknown, schema: Schema | undefined): Comparison {
  const out: Comparison = { added: new FieldSet(), modified: new FieldSet(), removed: new FieldSet() };
  compareAt(before, after, schema, [], out);
  return out;
}

function compareAt(
  a: unknown,
  b: unknown,
  schema: Schema | undefined,
  path: string[],
  out: Comparison,
): void {
  if (a === b) return;
  const whole = a === undefined ? out.added : b === undefined ? out.removed : undefined;
  const map = isMap(a) && isMap(b) ? mapNode(schema) : undefined;
  if (map && (size(a as Json) > 0 || size(b as Json) > 0)) {
    const before = (a ?? {}) as Json;
    const after = (b ?? {}) as Json;
    const go = (key: string, old: unknown, now: unknown) => {
      if (old === now) return;
      path.push(field(key));
      compareAt(old, now, below(map, key), path, out);
      path.pop();
    };
    for (const key of Object.keys(after))
      go(key, Object.hasOwn(before, key) ? before[key] : undefined, after[key]);
    for (const key of Object.keys(before)) if (!Object.hasOwn(after, key)) go(key, before[key], undefined);
    whole?.insert(path);
    return;
  }
  const list = isList(a) && isList(b) ? listNode(schema) : undefined;
  const before = list && indexed(list, (a ?? []) as unknown[]);
  const after = list && indexed(list, (b ?? []) as unknown[]);
  if (before && after && (before.size > 0 || after.size > 0)) {
    const go = (element: string) => {
      path.push(element);
      compareItems(before.get(element) ?? [], after.get(element) ?? [], list!.items, path, out);
      path.pop();
    };
    for (const element of after.keys()) go(element);
    for (const element of before.keys()) if (!after.has(element)) go(element);
    whole?.insert(path);
    return;
  }
  if (whole) whole.insert(path);
  else if (!deepEqual(a, b)) out.modified.insert(path);
}

/** Items of one key: one that is there twice, in objects older than the rule against it, counts as a leaf. */
function compareItems(
  a: unknown[],
  b: unknown[],
  items: Schema | undefined,
  path: string[],
  out: Comparison,
): void {
  if (a.length <= 1 && b.length <= 1) compareAt(a[0], b[0], items, path, out);
  else if (a.length > 1 && b.length > 1) {
    if (!deepEqual(a, b)) out.modified.insert(path);
  } else if (a.length > 1) {
    if (b.length > 0) compareAt(undefined, b[0], items, path, out);
    out.removed.insert(path);
  } else {
    if (a.length > 0) compareAt(a[0], undefined, items, path, out);
    out.added.insert(path);
  }
}

/** `applied` laid over `live`; neither is changed, the result shares parts with both. */
export function merge(live: unknown, applied: unknown, schema: Schema | undefined): unknown {
  if (applied === undefined) return live;
  if (live === undefined) return applied;
  const map = isPlainObject(live) && isPlainObject(applied) ? mapNode(schema) : undefined;
  if (map) {
    const out: Json = { ...(live as Json) };
    for (const [key, v] of Object.entries(applied as Json)) {
      const old = Object.hasOwn(out, key) ? out[key] : undefined;
      setOwn(out, key, merge(old, v, below(map, key)));
    }
    return out;
  }
  const list = Array.isArray(live) && Array.isArray(applied) ? listNode(schema) : undefined;
  return list ? mergeLists(list, live as unknown[], applied as unknown[]) : applied;
}

/**
 * The applied items in their order. Items that only the server has keep their place before the next item that both have
 * and that is applied in the server's order.
 */
function mergeLists(list: ListNode, live: readonly unknown[], applied: readonly unknown[]): unknown[] {
  const theirs = indexed(list, live);
  const ours = indexed(list, applied);
  if (!theirs || !ours) return [...applied];
  const out: unknown[] = [];
  let at = 0;
  /** Goes on through the server's items up to the one named, and takes those that only the server has. */
  const takeUntil = (stop: string | undefined): void => {
    for (; at < live.length; at++) {
      const { element } = elementOf(list, live[at]) as { element: string };
      if (element === stop) return;
      if (!ours.has(element)) out.push(live[at]);
    }
  };
  const shared = [...ours.keys()].filter((e) => theirs.has(e));
  for (const [element, [item]] of ours) {
    takeUntil(shared[0]);
    const same = theirs.get(element);
    out.push(same?.length === 1 ? merge(same[0], item, list.items) : item);
    if (shared[0] !== element) continue;
    shared.shift();
    if (at < live.length) at++;
  }
  takeUntil(undefined);
  return out;
}

/** `value` without the fields of `gone`. What loses its last part goes as well: then undefined. */
export function withoutFields(value: unknown, gone: FieldSet, schema: Schema | undefined): unknown {
  const map = isPlainObject(value) ? mapNode(schema) : undefined;
  if (map) {
    const out: Json = {};
    for (const [key, v] of Object.entries(value as Json)) {
      const e = field(key);
      if (gone.members.has(e)) continue;
      const deeper = gone.children.get(e);
      const left = deeper ? withoutFields(v, deeper, below(map, key)) : v;
      if (left !== undefined) setOwn(out, key, left);
    }
    return Object.keys(out).length > 0 ? out : undefined;
  }
  const list = Array.isArray(value) ? listNode(schema) : undefined;
  if (!list) return value;
  const out: unknown[] = [];
  for (const item of value as unknown[]) {
    const e = elementOf(list, item);
    if ('wrong' in e) return value;
    if (gone.members.has(e.element)) continue;
    const deeper = gone.children.get(e.element);
    const left = deeper ? withoutFields(item, deeper, list.items) : item;
    if (left !== undefined) out.push(left);
  }
  return out.length > 0 ? out : undefined;
}

/** The set, with the structs' named fields on the way to its paths. */
export function withParents(set: FieldSet, schema: Schema | undefined): FieldSet {
  const out = new FieldSet();
  for (const m of set.members) out.members.add(m);
  const map = mapNode(schema);
  const list = listNode(schema);
  for (const [e, child] of set.children) {
    const name = e.startsWith('f:') ? e.slice(2) : undefined;
    if (name !== undefined && map && Object.hasOwn(map.fields, name)) out.members.add(e);
    const deeper = name === undefined ? list?.items : map && below(map, name);
    out.children.set(e, withParents(child, deeper));
  }
  return out;
}

/** Owned fields after the schema changed: what has become one leaf is owned as one. */
export function reconciled(set: FieldSet, value: unknown, schema: Schema | undefined): FieldSet {
  const out = new FieldSet();
  for (const m of set.members) out.members.add(m);
  const map = isPlainObject(value) ? mapNode(schema) : undefined;
  for (const [e, child] of set.children) {
    const name = e.startsWith('f:') ? e.slice(2) : undefined;
    const there =
      map && name !== undefined && Object.hasOwn(value as Json, name) ? (value as Json)[name] : undefined;
    if (there === undefined) out.children.set(e, child);
    else if (isLeaf(there, below(map!, name!))) out.members.add(e);
    else out.children.set(e, reconciled(child, there, below(map!, name!)));
  }
  return out;
}

function isLeaf(value: unknown, schema: Schema | undefined): boolean {
  if (isPlainObject(value)) return mapNode(schema) === undefined;
  return !Array.isArray(value) || listNode(schema) === undefined;
}
