/**
 * A desired set as a map of items, so that two sides can compare it by digest and change it by deltas. Pure.
 * Item keys: `<letter>/<namespace>/<name>`; the letter says the kind.
 */
import { createHash } from 'node:crypto';
import type { KubeObject } from '../meta/object.js';
import type { DesiredSet } from './desired.js';
import type { Delta, DeltaItem } from './messages.js';

export const ITEM_KINDS = {
  c: 'configMaps',
  s: 'secrets',
  a: 'serviceAccounts',
  r: 'runtimeClasses',
  t: 'tokens',
  n: 'nodes',
  v: 'services',
  p: 'pods',
} as const satisfies Record<string, Exclude<keyof DesiredSet, 'generation'>>;

export type ItemKind = keyof typeof ITEM_KINDS;

export interface Item {
  readonly hash: string;
  /** May be made when it is asked for: read it once. */
  readonly object: KubeObject;
}

export type Items = Map<string, Item>;

export const itemKey = (kind: ItemKind, o: { metadata?: { namespace?: string; name?: string } }): string =>
  `${kind}/${o.metadata?.namespace ?? ''}/${o.metadata?.name ?? ''}`;

/** Of a set without items. */
export const EMPTY_DIGEST = digestOf(new Map());

/** 16 characters over keys and hashes, in the order of keys. */
export function digestOf(items: ReadonlyMap<string, { hash: string }>): string {
  const lines = [...items.keys()].sort().map((key) => `${key}\0${items.get(key)!.hash}\n`);
  return createHash('sha256').update(lines.join('')).digest().subarray(0, 12).toString('base64url');
}

export function toDesiredSet(generation: number, items: Items): DesiredSet {
  const set: DesiredSet = {
    generation,
    pods: [],
    configMaps: [],
    secrets: [],
    serviceAccounts: [],
    runtimeClasses: [],
    tokens: [],
    nodes: [],
    services: [],
  };
  for (const key of [...items.keys()].sort()) {
    const list = set[ITEM_KINDS[key[0] as ItemKind]] as KubeObject[] | undefined;
    list?.push(items.get(key)!.object);
  }
  return set;
}

const isObject = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v);

/** JSON with sorted keys: equal values give equal text. */
export function canonical(v: unknown): string {
  if (Array.isArray(v)) return `[${v.map((x) => (x === undefined ? 'null' : canonical(x))).join()}]`;
  if (!isObject(v)) return JSON.stringify(v) ?? 'null';
  const parts: string[] = [];
  for (const k of Object.keys(v).sort())
    if (v[k] !== undefined) parts.push(`${JSON.stringify(k)}:${canonical(v[k])}`);
  return `{${parts.join()}}`;
}

/** Applies a JSON merge patch (RFC 7386); neither argument is changed. */
export function mergePatch(into: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const out: Record<string, unknown> = isObject(into) ? { ...into } : {};
  for (const [k, v] of Object.entries(patch)) {
    if (k === '__proto__') continue;
    if (v === null) delete out[k];
    else out[k] = mergePatch(out[k], v);
  }
  return out;
}

/** The merge patch that leads from one object to the other, or undefined where none can (nulls inside). */
export function mergeDiff(from: KubeObject, to: KubeObject): object | undefined {
  const patch = diff(from, to) ?? {};
  return canonical(mergePatch(from, patch)) === canonical(to) ? (patch as object) : undefined;
}

function diff(from: unknown, to: unknown): unknown {
  if (!isObject(from) || !isObject(to)) return canonical(from) === canonical(to) ? undefined : to;
  const patch: Record<string, unknown> = {};
  for (const k of Object.keys(from)) if (to[k] === undefined && from[k] !== undefined) patch[k] = null;
  for (const [k, v] of Object.entries(to)) {
    if (v === undefined) continue;
    const d = from[k] === undefined ? v : diff(from[k], v);
    if (d !== undefined) patch[k] = d;
  }
  return Object.keys(patch).length ? patch : undefined;
}

/** What the receiver is known to hold: hashes, and the objects where the sender still has them. */
export type Held = ReadonlyMap<string, { hash: string; object?: KubeObject }>;

/**
 * A step from what is held towards what is wanted, of at most about `maxBytes` of JSON (one item may exceed it):
 * referred-to objects first, then pods, so that a pod never arrives before its configuration. `result` is what the
 * receiver holds afterwards. Undefined when there is nothing to do.
 */
export function planDelta(
  held: Held,
  want: Items,
  generation: number,
  maxBytes: number,
): { delta: Delta; result: Map<string, { hash: string; object?: KubeObject }> } | undefined {
  const changed = [...want.keys()].filter((k) => held.get(k)?.hash !== want.get(k)!.hash);
  const gone = [...held.keys()].filter((k) => !want.has(k));
  if (changed.length === 0 && gone.length === 0) return undefined;
  const podsLast = (k: string) => (k.startsWith('p/') ? 1 : 0);
  changed.sort((a, b) => podsLast(a) - podsLast(b) || (a < b ? -1 : 1));
  const result = new Map(held);
  const u: DeltaItem[] = [];
  let bytes = 0;
  let whole = true;
  for (const key of changed) {
    const item = want.get(key)!;
    const { object } = item;
    const before = held.get(key)?.object;
    const patch = before && mergeDiff(before, object);
    const full = JSON.stringify(object);
    const small = patch && JSON.stringify(patch);
    const patched = small !== undefined && small.length < full.length * 0.8;
    bytes += key.length + (patched ? small.length : full.length);
    if (u.length > 0 && bytes > maxBytes) {
      whole = false;
      break;
    }
    u.push(patched ? [key, item.hash, patch!, 1] : [key, item.hash, object]);
    result.set(key, item);
  }
  // Removing comes with the last step: a renamed ConfigMap must not be missed by pods that still mount the old one.
  if (whole) for (const key of gone) result.delete(key);
  const delta: Delta = { g: generation, b: digestOf(held), d: digestOf(result) };
  if (u.length) delta.u = u;
  if (whole && gone.length) delta.x = gone;
  return { delta, result };
}

/** The set after the delta, or undefined when it does not lead where it says (the base differs, or a patch misses). */
export function applyDelta(items: Items, delta: Delta): Items | undefined {
  if (digestOf(items) !== delta.b) return undefined;
  const out: Items = new Map(items);
  for (const [key, hash, object, patched] of delta.u ?? []) {
    const base = patched ? items.get(key)?.object : undefined;
    if (patched && !base) return undefined;
    out.set(key, {
      hash,
      object: patched ? (mergePatch(base, object) as KubeObject) : (object as KubeObject),
    });
  }
  for (const key of delta.x ?? []) out.delete(key);
  return digestOf(out) === delta.d ? out : undefined;
}
