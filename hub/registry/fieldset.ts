/**
 * Sets of fields as server-side apply keeps them (`FieldsV1`, sigs.k8s.io/structured-merge-diff fieldpath). A path is a
 * list of elements in their serialized form: `f:name` a field, `k:{"name":"x"}` an element of a keyed list, `v:"x"` one
 * of a set, `i:0` one by position. Canonical texts, so that equal elements are equal strings.
 */
import { isPlainObject } from '../../api/meta/json.js';

export type Path = readonly string[];

export const field = (name: string): string => `f:${name}`;
export const setElement = (value: unknown): string => `v:${JSON.stringify(value)}`;
export function keyElement(keys: Readonly<Record<string, unknown>>): string {
  const sorted = Object.keys(keys).sort();
  return `k:{${sorted.map((k) => `${JSON.stringify(k)}:${JSON.stringify(keys[k])}`).join(',')}}`;
}

/** The canonical form of an element that a client sent. Undefined for a kind of element of which nothing is known. Throws. */
function parseElement(text: string): string | undefined {
  const rest = text.slice(2);
  if (text.startsWith('f:')) return text;
  if (text.startsWith('v:')) return setElement(JSON.parse(rest));
  if (text.startsWith('i:') && /^\d{1,9}$/.test(rest)) return text;
  if (text.startsWith('k:')) {
    const keys: unknown = JSON.parse(rest);
    if (!isPlainObject(keys)) throw new Error(`${text} is no key`);
    return keyElement(keys);
  }
  if (text[1] !== ':') throw new Error(`${text.slice(0, 64)} is no path element`);
  return undefined;
}

/** `.spec.containers[name="web"].image`: how messages name a path. */
export function pathText(path: Path): string {
  return path
    .map((e) => {
      const rest = e.slice(2);
      if (e.startsWith('f:')) return `.${rest}`;
      if (e.startsWith('v:')) return `[=${rest}]`;
      if (e.startsWith('i:')) return `[${rest}]`;
      const keys = Object.entries(JSON.parse(rest) as Record<string, unknown>);
      return `[${keys.map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(',')}]`;
    })
    .join('');
}

/** A set of paths. A parent is in the set only when it was put there itself. */
export class FieldSet {
  readonly members = new Set<string>();
  readonly children = new Map<string, FieldSet>();

  get empty(): boolean {
    return this.members.size === 0 && this.children.size === 0;
  }

  /** The empty path, the whole object, is never owned. */
  insert(path: Path): this {
    let at: FieldSet = this;
    for (let i = 0; i < path.length - 1; i++) at = at.#descend(path[i]!);
    if (path.length > 0) at.members.add(path[path.length - 1]!);
    return this;
  }

  #descend(element: string): FieldSet {
    let child = this.children.get(element);
    if (!child) {
      child = new FieldSet();
      this.children.set(element, child);
    }
    return child;
  }

  has(path: Path): boolean {
    let at: FieldSet | undefined = this;
    for (const e of path.slice(0, -1)) at = at?.children.get(e);
    return path.length > 0 && at !== undefined && at.members.has(path[path.length - 1]!);
  }

  union(other: FieldSet): FieldSet {
    const out = new FieldSet();
    for (const m of this.members) out.members.add(m);
    for (const m of other.members) out.members.add(m);
    for (const [e, child] of this.children) {
      const theirs = other.children.get(e);
      out.children.set(e, theirs ? child.union(theirs) : child);
    }
    for (const [e, child] of other.children) if (!this.children.has(e)) out.children.set(e, child);
    return out;
  }

  /** Path by path: a parent in `other` does not take its children along. */
  difference(other: FieldSet): FieldSet {
    const out = new FieldSet();
    for (const m of this.members) if (!other.members.has(m)) out.members.add(m);
    for (const [e, child] of this.children) {
      const theirs = other.children.get(e);
      const left = theirs ? child.difference(theirs) : child;
      if (!left.empty) out.children.set(e, left);
    }
    return out;
  }

  intersection(other: FieldSet): FieldSet {
    const out = new FieldSet();
    for (const m of this.members) if (other.members.has(m)) out.members.add(m);
    for (const [e, child] of this.children) {
      const theirs = other.children.get(e);
      const both = theirs && child.intersection(theirs);
      if (both && !both.empty) out.children.set(e, both);
    }
    return out;
  }

  /** Without the paths that begin with `element` (itself included), or with those alone. */
  without(element: string): FieldSet {
    return this.#pick((e) => e !== element);
  }
  only(element: string): FieldSet {
    return this.#pick((e) => e === element);
  }
  #pick(keep: (element: string) => boolean): FieldSet {
    const out = new FieldSet();
    for (const m of this.members) if (keep(m)) out.members.add(m);
    for (const [e, child] of this.children) if (keep(e)) out.children.set(e, child);
    return out;
  }

  equals(other: FieldSet): boolean {
    if (this.members.size !== other.members.size || this.children.size !== other.children.size) return false;
    for (const m of this.members) if (!other.members.has(m)) return false;
    for (const [e, child] of this.children) {
      const theirs = other.children.get(e);
      if (!theirs?.equals(child)) return false;
    }
    return true;
  }

  /** Every path, members of a level before what is below them, both sorted. */
  paths(): string[][] {
    const out = [...this.members].sort().map((m) => [m]);
    for (const e of [...this.children.keys()].sort())
      for (const p of this.children.get(e)!.paths()) out.push([e, ...p]);
    return out;
  }

  /** The JSON form: `{}` for a member without children, `"."` for one with. */
  toFieldsV1(): Record<string, object> {
    const out: Record<string, object> = {};
    for (const e of [...new Set([...this.members, ...this.children.keys()])].sort()) {
      const below = this.children.get(e)?.toFieldsV1() ?? {};
      out[e] = this.members.has(e) && this.children.has(e) ? { '.': {}, ...below } : below;
    }
    return out;
  }

  /** Throws on what is no FieldsV1. */
  static fromFieldsV1(json: unknown): FieldSet {
    if (!isPlainObject(json)) throw new Error('fieldsV1 must be an object');
    const out = new FieldSet();
    for (const [key, value] of Object.entries(json)) {
      if (key === '.') continue;
      const element = parseElement(key);
      if (element === undefined) continue;
      const child = FieldSet.fromFieldsV1(value);
      if (child.empty || Object.hasOwn(value as object, '.')) out.members.add(element);
      if (!child.empty) out.children.set(element, child);
    }
    return out;
  }
}
